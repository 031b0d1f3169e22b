//! `forward stdio` as a client lives it: bytes, ends, signals and exit codes as without it, and nobody left behind.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;

#[path = "support/wait.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod wait;

use wait::{wait_for, wait_until};

/// Far longer than any test: what ends within it did not wait for it.
const LONG: &str = "10m";
const MIB: usize = 1 << 20;
/// Pipes and buffers on the way, with room.
const ON_THE_WAY_MAX: usize = MIB;

/// A proxy in front of `server`, for who has not read all of it yet.
struct Forward {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

fn command(grace: &str, server: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shadowcat"));
    command.args(["forward", "stdio", "--grace", grace, "--"]).args(server);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

impl Forward {
    fn start(grace: &str, server: &[&str]) -> Forward {
        let mut child = command(grace, server).spawn().unwrap();
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Forward { child, stdin, stdout }
    }

    fn shell(grace: &str, script: &str) -> Forward {
        Forward::start(grace, &["sh", "-c", script])
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Numbers on one line.
    fn pids(&mut self) -> Vec<i32> {
        self.line().split(' ').map(|pid| pid.parse().unwrap()).collect()
    }

    fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    fn close_stdin(&mut self) {
        drop(self.stdin.take());
    }

    /// The rest of what the server says, and the exit code.
    fn end(mut self) -> (String, Option<i32>) {
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        (rest, self.child.wait().unwrap().code())
    }

    /// The process that guards the server.
    fn guard(&self) -> i32 {
        wait_for("the guard", || children(self.pid()).first().copied())
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn send(pid: i32, signal: &str) {
    let done = Command::new("kill").args(["-s", signal, "--", &pid.to_string()]).status().unwrap();
    assert!(done.success(), "{signal} to {pid}");
}

fn stat(pid: i32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
}

/// Gone, or waiting to be reaped by whoever adopts processes on this machine.
fn is_gone(pid: i32) -> bool {
    stat(pid).is_none_or(|stat| stat[0] == "Z")
}

fn children(parent: i32) -> Vec<i32> {
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|&pid| stat(pid).is_some_and(|stat| stat[1] == parent.to_string())).collect()
}

/// The most memory that a process had, in bytes.
fn peak_memory(pid: i32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

/// Bytes and numbers that follow from a seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }
}

#[test]
fn bytes_and_their_order_are_exact_both_ways() {
    let mut random = Random(0x5EED_CA75);
    let sent = random.bytes(10 * MIB);
    let mut forward = Forward::start(LONG, &["cat"]);
    let (mut stdin, bytes) = (forward.stdin.take().unwrap(), sent.clone());
    let writer = thread::spawn(move || {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (chunk, later) = rest.split_at(rest.len().min(1 + (random.next() % 200_000) as usize));
            stdin.write_all(chunk).unwrap();
            rest = later;
        }
    });
    let mut got = Vec::new();
    forward.stdout.read_to_end(&mut got).unwrap();
    writer.join().unwrap();
    assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
    assert_eq!(forward.child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_message_passes_before_its_line_ends() {
    let mut forward = Forward::start(LONG, &["cat"]);
    let mut got = [0; 7];
    forward.stdin.as_mut().unwrap().write_all(b"no line").unwrap();
    forward.stdout.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"no line");
}

#[test]
fn what_a_server_says_last_arrives_however_slowly_it_is_read() {
    let mut forward = Forward::shell(LONG, "head -c 3000000 /dev/zero; exit 5");
    let mut all = 0;
    let mut piece = [0; 1000];
    while let count @ 1.. = forward.stdout.read(&mut piece).unwrap() {
        all += count;
    }
    assert_eq!((all, forward.child.wait().unwrap().code()), (3_000_000, Some(5)));
}

#[test]
fn a_slow_client_holds_the_server_back_in_constant_memory() {
    const ALL: usize = 256 * MIB;
    // What is left to read when memory is looked at: the server must still be there, and the proxy with it.
    const REST: usize = 4 * ON_THE_WAY_MAX;
    let mut forward = Forward::shell(LONG, &format!("echo $$; exec head -c {ALL} /dev/zero"));
    let server = forward.pids()[0];
    let written = || {
        let io = fs::read_to_string(format!("/proc/{server}/io")).unwrap();
        io.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap().parse::<usize>().unwrap()
    };
    // Written nothing for a while means that it cannot.
    let (mut seen, mut same) = (0, 0);
    wait_until("the server to stand still", || {
        let now = written();
        (seen, same) = (now, if now == seen && now > 100 { same + 1 } else { 0 });
        same == 50
    });
    assert!(seen < ON_THE_WAY_MAX, "{seen} bytes are under way");
    let most = &mut forward.stdout.by_ref().take((ALL - REST) as u64);
    assert_eq!(std::io::copy(most, &mut std::io::sink()).unwrap(), (ALL - REST) as u64);
    let memory = peak_memory(forward.pid());
    assert!(memory < 48 * MIB, "{memory} bytes");
    assert_eq!(forward.end(), ("\0".repeat(REST), Some(0)));
}

#[test]
fn a_slow_server_holds_the_client_back() {
    // It reads nothing before the client says so.
    let directory = tempfile::tempdir().unwrap();
    let gate = directory.path().join("gate");
    assert!(Command::new("mkfifo").arg(&gate).status().unwrap().success());
    let mut forward = Forward::shell(LONG, &format!("read go < {}; wc -c", gate.display()));
    let stdin = forward.stdin.take().unwrap();
    rustix::io::ioctl_fionbio(&stdin, true).unwrap();
    let piece = [7; 4096];
    let mut sent = 0;
    // Full for a while means full all the way.
    let mut refused = 0;
    wait_until("the way to fill up", || {
        match rustix::io::write(&stdin, &piece) {
            Ok(count) => (sent, refused) = (sent + count, 0),
            Err(error) => {
                assert_eq!(error, rustix::io::Errno::AGAIN);
                refused += 1;
            }
        }
        refused == 100
    });
    assert!(sent < ON_THE_WAY_MAX, "{sent} bytes are under way");
    fs::write(&gate, "go\n").unwrap();
    drop(stdin);
    assert_eq!(forward.end(), (format!("{sent}\n"), Some(0)));
}

#[test]
fn stderr_is_the_clients() {
    let mut command = command(LONG, &["sh", "-c", "echo out; echo err >&2; exit 3"]);
    let done = command.stdin(Stdio::null()).output().unwrap();
    assert_eq!((&done.stdout[..], &done.stderr[..], done.status.code()), (&b"out\n"[..], &b"err\n"[..], Some(3)));
}

#[test]
fn exit_codes_pass() {
    let ends = [
        ("exit 0", 0),
        ("exit 7", 7),
        ("exit 255", 255),
        ("kill -TERM $$", 143),
        ("kill -KILL $$", 137),
        ("kill -SEGV $$", 139),
    ];
    for (script, code) in ends {
        // The client's side stays open meanwhile.
        assert_eq!(Forward::shell(LONG, script).end().1, Some(code), "{script}");
    }
}

#[test]
fn a_server_that_cannot_be_started_is_told_in_words() {
    let directory = tempfile::tempdir().unwrap();
    let script = |name: &str, text: &str, mode: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        assert!(Command::new("chmod").arg(mode).arg(&path).status().unwrap().success());
        path.to_str().unwrap().to_owned()
    };
    let (plain, orphaned) = (script("plain", "hello", "644"), script("orphaned", "#!/no/interpreter\n", "755"));
    let absent = directory.path().join("absent").to_str().unwrap().to_owned();
    let told = [
        ("shadowcat-no-such-program", 127, "no such program in PATH; install it, or give the path to it"),
        (&absent, 127, "no such file"),
        (&orphaned, 127, "the interpreter that its first line names is not there"),
        (&plain, 126, "it is not executable; see chmod +x, or start its interpreter with it"),
        ("/", 126, "it is a directory"),
    ];
    for (program, code, why) in told {
        let program: &str = program;
        let done = command(LONG, &[program]).stderr(Stdio::piped()).output().unwrap();
        let said = String::from_utf8(done.stderr).unwrap();
        assert_eq!((said, done.status.code()), (format!("shadowcat: cannot start {program}: {why}\n"), Some(code)));
        assert!(done.stdout.is_empty());
    }
    for (arguments, missing) in [(&["forward", "stdio"][..], "<COMMAND>"), (&["forward", "stdio", "cat"], "cat")] {
        let done = Command::new(env!("CARGO_BIN_EXE_shadowcat")).args(arguments).output().unwrap();
        assert_eq!(done.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&done.stderr).contains(missing));
    }
}

#[test]
fn signals_reach_the_server_once_and_only_the_server() {
    for (name, code) in [("HUP", 11), ("INT", 12), ("QUIT", 13), ("TERM", 15), ("USR1", 16), ("USR2", 17)] {
        // The other process of its group would say so.
        let script = format!(
            "sh -c 'trap \"echo other\" {name}; echo $$; while :; do sleep 600 & wait $!; done' &
             n=0; trap 'n=$((n + 1)); echo got {name} $n' {name}; echo ready
             while [ $n = 0 ]; do sleep 0.05; done; kill -KILL $!; cat >/dev/null; exit {code}"
        );
        let mut forward = Forward::shell(LONG, &script);
        let mut begun = [forward.line(), forward.line()];
        begun.sort();
        assert_eq!(begun[1], "ready");
        send(forward.pid(), name);
        assert_eq!(forward.line(), format!("got {name} 1"));
        forward.close_stdin();
        assert_eq!(forward.end(), (String::new(), Some(code)), "{name}");
    }
}

#[test]
fn a_signal_that_ends_the_server_is_in_the_exit_code() {
    let mut forward = Forward::shell(LONG, "echo ready; exec sleep 600");
    assert_eq!(forward.line(), "ready");
    send(forward.pid(), "TERM");
    assert_eq!(forward.end(), (String::new(), Some(143)));
}

#[test]
fn a_client_that_closes_its_end_gets_the_servers_own_end() {
    let mut forward = Forward::shell(LONG, "trap 'echo TERM' TERM; cat; echo eof; exit 4");
    forward.stdin.as_mut().unwrap().write_all(b"last words\n").unwrap();
    forward.close_stdin();
    assert_eq!(forward.end(), ("last words\neof\n".to_owned(), Some(4)));
}

#[test]
fn a_server_that_stays_after_the_end_is_told_then_killed() {
    let script = "trap 'echo TERM' TERM; cat >/dev/null; echo eof; while :; do sleep 600 & wait $!; done";
    let mut forward = Forward::shell("200ms", script);
    forward.close_stdin();
    assert_eq!(forward.end(), ("eof\nTERM\n".to_owned(), Some(137)));

    let mut forward = Forward::shell("200ms", "trap 'echo TERM; exit 9' TERM; cat >/dev/null; sleep 600 & wait");
    forward.close_stdin();
    assert_eq!(forward.end(), ("TERM\n".to_owned(), Some(9)));
}

#[test]
fn a_server_that_closes_its_end_is_seen_to() {
    let mut forward = Forward::shell(LONG, "exec >&-; read line; exit 6");
    let mut rest = String::new();
    // The server still runs when stdout ends.
    forward.stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(forward.child.try_wait().unwrap(), None);
    forward.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    assert_eq!(forward.end(), (String::new(), Some(6)));
}

#[test]
fn a_server_notices_that_nobody_reads() {
    let mut forward = Forward::start(LONG, &["yes"]);
    assert_eq!(forward.line(), "y");
    let Forward { child, stdout, .. } = &mut forward;
    let closed = std::mem::replace(stdout, BufReader::new(other_stdout()));
    drop(closed);
    // SIGPIPE, as without us.
    assert_eq!(child.wait().unwrap().code(), Some(141));
}

/// Something to put in place of what is closed.
fn other_stdout() -> ChildStdout {
    let mut child = Command::new("true").stdout(Stdio::piped()).spawn().unwrap();
    child.wait().unwrap();
    child.stdout.take().unwrap()
}

/// A family: a child in the server's group, one in a session of its own, one whose parent is gone. Each has a pipe of its own: one
/// that the first still holds open would end at once for the reader of the second.
const FAMILY: &str = "sleep 600 & a=$!
    setsid sh -c 'echo $$ > \"$0\"; exec sleep 600' \"$FIFO.b\" & read b < \"$FIFO.b\"
    (trap '' TERM HUP; setsid sh -c 'echo $$ > \"$0\"; exec sleep 600' \"$FIFO.c\" &) ; read c < \"$FIFO.c\"
    echo $$ $a $b $c;";

fn family(grace: &str, then: &str) -> (Forward, Vec<i32>) {
    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("fifo");
    let names = ["b", "c"].map(|name| fifo.with_extension(name));
    assert!(Command::new("mkfifo").args(names).status().unwrap().success());
    let script = format!("FIFO={}; {FAMILY} {then}", fifo.display());
    let mut forward = Forward::shell(grace, &script);
    let pids = forward.pids();
    assert_eq!(pids.len(), 4);
    assert!(pids.iter().all(|&pid| !is_gone(pid)), "{pids:?}");
    (forward, pids)
}

#[test]
fn killing_the_proxy_leaves_nobody() {
    for _ in 0..5 {
        let (mut forward, mut pids) = family(LONG, "trap '' TERM HUP INT; wait");
        pids.push(forward.guard());
        forward.child.kill().unwrap();
        assert_eq!(forward.child.wait().unwrap().signal(), Some(9));
        wait_until("everybody to be gone", || pids.iter().all(|&pid| is_gone(pid)));
    }
}

#[test]
fn killing_the_guard_leaves_nobody() {
    let (forward, pids) = family(LONG, "trap '' TERM HUP INT; wait");
    send(forward.guard(), "KILL");
    assert_eq!(forward.end(), (String::new(), Some(137)));
    assert!(pids.iter().all(|&pid| is_gone(pid)), "{pids:?}");
}

#[test]
fn what_a_server_leaves_behind_ends_with_it() {
    let (mut forward, pids) = family(LONG, "read line; exit 8");
    forward.close_stdin();
    assert_eq!(forward.end(), (String::new(), Some(8)));
    assert!(pids.iter().all(|&pid| is_gone(pid)), "{pids:?}");
}

#[test]
fn a_client_that_ignores_sigchld_gets_exit_codes() {
    let program = env!("CARGO_BIN_EXE_shadowcat");
    let script =
        "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])";
    let done = Command::new("timeout")
        .args(["20", "python3", "-c", script, program, "forward", "stdio", "--", "sh", "-c", "exit 3"])
        .output();
    assert_eq!(done.unwrap().status.code(), Some(3));
}

/// ^C goes to all of a foreground group: also to what a shell waits for.
#[test]
fn an_interrupt_from_the_terminal_reaches_what_the_server_started() {
    let script = "
import os, pty, sys
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], sys.argv[1:])
seen = b''
while b'ready' not in seen:
    seen += os.read(terminal, 100)
os.write(terminal, b'\\x03')
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
";
    let server = "sh -c 'trap \"exit 5\" INT; echo ready; while :; do sleep 600 & wait $!; done'; exit $?";
    // A lost interrupt would be waited for without end.
    let mut command = Command::new("timeout");
    command.args([
        "--foreground",
        "20",
        "python3",
        "-c",
        script,
        env!("CARGO_BIN_EXE_shadowcat"),
        "forward",
        "stdio",
        "--",
        "sh",
        "-c",
    ]);
    let done = command.arg(format!("trap : INT; {server}")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&done.stdout), "5\n", "{}", String::from_utf8_lossy(&done.stderr));
}
