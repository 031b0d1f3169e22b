//! Real clients with no token, a real authorization server, the proxy asking for tokens: the whole of MCP's authorization,
//! from the first 401 to a token that was renewed. What reaches the upstream holds nothing that was for the proxy.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::*;

/// Passes connections on to a server and keeps what was sent to it.
struct Recorder {
    address: String,
    received: Arc<Mutex<Vec<u8>>>,
}

impl Recorder {
    fn before(server: &str) -> Recorder {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let received = Arc::new(Mutex::new(Vec::new()));
        let (kept, server) = (received.clone(), server.to_owned());
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let upstream = TcpStream::connect(&server).unwrap();
                let (back, to) = (client.try_clone().unwrap(), upstream.try_clone().unwrap());
                let kept = kept.clone();
                std::thread::spawn(move || pass(client, upstream, |bytes| kept.lock().unwrap().extend(bytes)));
                std::thread::spawn(move || pass(to, back, |_| ()));
            }
        });
        Recorder { address, received }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.received.lock().unwrap()).into_owned()
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, mut seen: impl FnMut(&[u8])) {
    let mut piece = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut piece) {
        seen(&piece[..length]);
        if to.write_all(&piece[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// Run `client` with the URL of a proxy that asks for tokens of oidc-provider, on each driver. `scopes`: what is asked of
/// the user, one time after the other. Tokens live for four seconds; the tool `slow` needs `write`.
fn authorized(client: impl Fn(&PathBuf, &str) -> String, expected: &Value, scopes: &[&str]) {
    let peers = peers();
    let mut command = node(&peers);
    command.arg(script("idp.mjs")).env("IDP_MODULES", peers.join("node_modules")).env("IDP_TTL", "4");
    let (idp, demo) = (Server::start(command, "listening on http://"), Server::demo());
    for driver in ["io_uring", "epoll"] {
        let upstream = Recorder::before(&demo.address);
        let address = format!("127.0.0.1:{}", free_port());
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("shadowcat.toml");
        // Clients count the life of a token from when they got it: with a leeway they renew it before it is refused.
        let config = format!(
            "[proxy]\nbind = \"{address}\"\n[auth]\nissuer = \"http://{}\"\naudience = \"http://{address}\"\nleeway = 2\n\
             scopes = [\"read\"]\n[[auth.rules]]\nmethod = \"tools/call\"\ntool = \"slow\"\nscopes = [\"write\"]\n\
             [[upstreams]]\nname = \"a\"\nurl = \"http://{}\"\n",
            idp.address, upstream.address
        );
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_shadowcat"));
        command.arg("reverse").arg("--config").arg(&file).args(["--workers", "2", "--driver", driver]);
        let _proxy = Server::start(command.args(["--set", "session.store=memory"]), "listening on http://");
        let said = client(&peers, &format!("http://{address}/mcp"));
        let seen: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
        for (name, value) in expected.as_object().unwrap() {
            assert_eq!(&seen[name], value, "{driver} {name}: {said}");
        }
        let asked: Vec<Value> = scopes
            .iter()
            .map(|scope| json!({"scope": scope, "resource": format!("http://{address}/mcp"), "code_challenge_method": "S256"}))
            .collect();
        assert_eq!(seen["asked"], json!(asked), "{driver}");
        let (received, held) = (upstream.text(), seen["held"].as_array().unwrap());
        assert!(held.len() > 1 && received.contains("tools/call"), "{said}\n{received}");
        for token in held {
            assert!(!received.contains(token.as_str().unwrap()), "{received}");
        }
        let user = if scopes.is_empty() { "robot" } else { "ada" };
        assert!(received.contains(&format!("X-Forwarded-User: {user}\r\n")), "{received}");
        assert!(!received.to_ascii_lowercase().contains("authorization"), "{received}");
    }
}

fn typescript(sdk: &'static str, kind: &'static str) -> impl Fn(&PathBuf, &str) -> String {
    move |peers, url| {
        let mut command = node(peers);
        command.arg(script("auth-flow.mjs")).arg(peers.join("node_modules"));
        output(command.args([url, sdk, kind]))
    }
}

fn python(kind: &'static str) -> impl Fn(&PathBuf, &str) -> String {
    move |peers, url| {
        let mut command = Command::new(peers.join("venv/bin/python"));
        output(command.arg(script("auth_flow.py")).args([url, kind]))
    }
}

/// Led in by a 401, sent for more by a 403.
fn everything(renewed: &str) -> Value {
    json!({
        "echo": "hello", "scope": "read", "slow": "Done after 1 steps", "stepped": "read write", "renewed": renewed,
        "still": "hello",
    })
}

fn with_another_resource(mut expected: Value) -> Value {
    let challenge = "Bearer error=\"invalid_token\"";
    expected["elsewhere"] = json!({"aud": "https://other.example/mcp", "status": 401, "challenge": challenge});
    expected["first"] = json!([401, 200, 202]);
    expected
}

/// Registers itself, steps up, renews by its refresh token.
#[test]
fn the_second_typescript_client_does_all_by_itself() {
    let scopes = ["read offline_access", "read write offline_access"];
    authorized(typescript("v2", "user"), &with_another_resource(everything("alone")), &scopes);
}

/// As a client that was registered before; it asks just for what a challenge names.
#[test]
fn the_first_typescript_client_asks_its_user_again() {
    let scopes = ["read", "read write", "read"];
    authorized(typescript("v1", "user"), &with_another_resource(everything("by the user")), &scopes);
}

/// Where it has a refresh token it tries that on a 403, which grants no more than before, and gives up.
#[test]
fn the_first_typescript_client_renews_and_does_not_step_up() {
    let mut expected = with_another_resource(everything("alone"));
    expected["slow"] = "refused: Streamable HTTP error: Server returned 403 after trying upscoping".into();
    expected["stepped"] = "read".into();
    authorized(typescript("v1", "offline"), &expected, &["read offline_access"]);
}

#[test]
fn the_python_client_does_all_by_itself() {
    let mut expected = everything("alone");
    expected["first"] = json!([401, 200]);
    authorized(python("user"), &expected, &["read offline_access", "read offline_access write"]);
}

#[test]
fn machines_get_tokens_by_their_secret() {
    authorized(typescript("v2", "machine"), &everything("alone"), &[]);
    authorized(python("machine"), &everything("alone"), &[]);
    // Its scope is what it was made with.
    let mut first = everything("alone");
    first["slow"] = "refused: Streamable HTTP error: Server returned 403 after trying upscoping".into();
    first["stepped"] = "read".into();
    authorized(typescript("v1", "machine"), &first, &[]);
}
