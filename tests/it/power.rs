//! Power cuts and broken disks: every write of the store and every sync is recorded on its way to the kernel, and from that
//! the disk is made as it may be after a power cut at any point.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use shadowcat::base::SessionId;
use shadowcat::store::{Options, Place, Store};
use tempfile::TempDir;

use crate::on_both_drivers;
use crate::support::mcp::*;
use crate::support::*;

on_both_drivers!(
    a_power_cut_at_any_point_loses_no_acknowledged_session,
    a_power_cut_in_relaxed_mode_damages_nothing,
    a_disk_that_cannot_sync_refuses_new_sessions_and_loses_none,
    a_disk_that_cannot_write_loses_no_session,
    a_commit_that_cannot_be_finished_loses_no_session,
);

/// What a disk writes or does not write as a whole.
const SECTOR: usize = 512;
/// What a disk makes of the writes that no sync followed is drawn this often at each point.
const DRAWS: u64 = 3;

/// A place for a store, its recorder and the recorder's log.
struct Disk {
    directory: TempDir,
}

/// What reached the kernel.
enum Record {
    Write {
        offset: usize,
        bytes: Vec<u8>,
        durable: bool,
    },
    Sync,
    /// The file is renamed to what a server looks for.
    Named,
    /// The directory is synced.
    NameSynced,
}

impl Disk {
    fn new() -> Disk {
        let disk = Disk { directory: TempDir::new().expect("a directory") };
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/power/recorder.c");
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .args([disk.path("recorder.so"), source])
            .arg("-ldl")
            .status()
            .expect("cc, which LMDB is built with as well");
        assert!(compiled.success());
        disk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn proxy(&self, driver: Driver, upstream: &FakeUpstream, durability: &str) -> Proxy {
        let text = |name: &str| self.path(name).display().to_string();
        Proxy::before(driver, &[upstream])
            .store(&self.path("store"))
            .set("session.durability", durability)
            .variable("LD_PRELOAD", &text("recorder.so"))
            .variable("STORE_LOG", &text("log"))
            .variable("STORE_FAILS", &text("fails"))
            .start()
    }

    /// Bytes in the log.
    fn position(&self) -> usize {
        fs::metadata(self.path("log")).map_or(0, |log| log.len() as usize)
    }

    /// The records, each with its end in the log.
    fn records(&self) -> Vec<(usize, Record)> {
        let log = fs::read(self.path("log")).expect("a log");
        let word = |at: usize| u64::from_ne_bytes(log[at..at + 8].try_into().expect("a word"));
        let (mut at, mut records) = (0, Vec::new());
        while at < log.len() {
            let (kind, offset, length) = (word(at) as u8, word(at + 8) as usize, word(at + 16) as usize);
            let bytes = log[at + 24..at + 24 + length].to_vec();
            at += 24 + length;
            records.push((
                at,
                match kind {
                    b's' => Record::Sync,
                    b'r' => Record::Named,
                    b'n' => Record::NameSynced,
                    _ => Record::Write { offset, bytes, durable: kind == b'd' },
                },
            ));
        }
        records
    }
}

/// The disk at some point of the log.
#[derive(Default)]
struct Image {
    durable: Vec<u8>,
    /// Written, but on the disk only perhaps.
    floating: Vec<(usize, Vec<u8>)>,
    /// Whether a server that starts anew may find it, and whether it must.
    named: bool,
    name_durable: bool,
}

fn write_at(image: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if image.len() < offset + bytes.len() {
        image.resize(offset + bytes.len(), 0);
    }
    image[offset..offset + bytes.len()].copy_from_slice(bytes);
}

impl Image {
    fn apply(&mut self, record: &Record) {
        match record {
            Record::Write { offset, bytes, durable: true } => write_at(&mut self.durable, *offset, bytes),
            Record::Write { offset, bytes, durable: false } => self.floating.push((*offset, bytes.clone())),
            Record::Sync => {
                for (offset, bytes) in self.floating.drain(..) {
                    write_at(&mut self.durable, offset, &bytes);
                }
            }
            Record::Named => self.named = true,
            Record::NameSynced => self.name_durable = self.named,
        }
    }

    /// After a power cut now: of what no sync followed, the sectors that `keep` chooses.
    fn after_a_cut(&self, mut keep: impl FnMut() -> bool) -> Vec<u8> {
        let mut image = self.durable.clone();
        for (offset, bytes) in &self.floating {
            for (n, sector) in bytes.chunks(SECTOR).enumerate() {
                if keep() {
                    write_at(&mut image, offset + n * SECTOR, sector);
                }
            }
        }
        image
    }
}

/// A sequence of random bits that a seed gives.
fn bits(seed: u64) -> impl FnMut() -> bool {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 63 == 1
    }
}

/// What clients were told, and where in the log.
#[derive(Default)]
struct Told {
    begun: Vec<(String, usize)>,
    /// When its end was asked for, and when it was acknowledged.
    ended: Vec<(String, usize, usize)>,
}

/// Sessions that begin, are used, and end, and where in the log each was acknowledged; then `kill -9`.
fn lives(disk: &Disk, driver: Driver, durability: &str, sessions: usize) -> Told {
    let replica = Replica::new("a");
    let proxy = disk.proxy(driver, &replica.upstream, durability);
    let mut client = proxy.connect();
    let mut told = Told::default();
    for n in 0..sessions {
        told.begun.push((begin_session_on(&mut client), disk.position()));
        if n % 4 == 3 {
            let asked = disk.position();
            let id = told.begun[n - 2].0.clone();
            assert_eq!(client.ask(&delete(&id)).status, 200);
            told.ended.push((id, asked, disk.position()));
        }
    }
    proxy.kill();
    told
}

/// Open a store that holds this, as a server does; the sessions in it, of those that are asked for.
fn open(image: &[u8], asked: &Told) -> Result<Vec<String>, String> {
    let directory = TempDir::new().expect("a directory");
    fs::write(directory.path().join("data.mdb"), image).expect("an image");
    let checker = Some((env!("CARGO_BIN_EXE_shadowcat").into(), vec!["store-check".into()]));
    let place = Place::Directory(directory.path().to_owned());
    let store = Store::open(Options { place, checker, ..Options::default() }).map_err(|error| error.to_string())?;
    let is_there = |id: &&String| {
        let id = SessionId::parse(id.as_bytes()).expect("an id");
        store.find(&id).expect("readable").is_some()
    };
    let found = asked.begun.iter().map(|(id, _)| id).filter(is_there).cloned().collect();
    store.close();
    Ok(found)
}

/// Every point of the log, and what the disk may hold after a cut there; `check` gets the point and what was found.
fn cut_everywhere(disk: &Disk, told: &Told, check: impl Fn(usize, &[String])) {
    let mut image = Image::default();
    let mut cuts = 0;
    for (position, record) in disk.records() {
        image.apply(&record);
        if !image.name_durable {
            assert!(told.begun.iter().all(|(_, at)| *at > position), "told before the store has its name for good");
        }
        if !image.named {
            continue;
        }
        let mut images = vec![image.after_a_cut(|| false)];
        if !image.floating.is_empty() {
            images.push(image.after_a_cut(|| true));
            images.extend((0..DRAWS).map(|draw| image.after_a_cut(bits(position as u64 * DRAWS + draw))));
        }
        for (n, bytes) in images.iter().enumerate() {
            let found = open(bytes, told).unwrap_or_else(|error| panic!("cut at {position}, disk {n}: {error}"));
            check(position, &found);
            cuts += 1;
        }
    }
    assert!(cuts > 10 * told.begun.len(), "only {cuts} cuts");
}

fn a_power_cut_at_any_point_loses_no_acknowledged_session(driver: Driver) {
    let disk = Disk::new();
    let told = lives(&disk, driver, "strict", 20);
    cut_everywhere(&disk, &told, |position, found| {
        let is_ending = |id: &String| told.ended.iter().any(|(ended, asked, _)| ended == id && *asked < position);
        for (id, _) in told.begun.iter().filter(|(id, at)| *at <= position && !is_ending(id)) {
            assert!(found.contains(id), "cut at {position}: a session is lost");
        }
        for (id, ..) in told.ended.iter().filter(|(.., at)| *at <= position) {
            assert!(!found.contains(id), "cut at {position}: a session came back");
        }
    });
}

fn a_power_cut_in_relaxed_mode_damages_nothing(driver: Driver) {
    let disk = Disk::new();
    let told = lives(&disk, driver, "relaxed", 8);
    cut_everywhere(&disk, &told, |_, _| {});
}

fn a_disk_that_cannot_sync_refuses_new_sessions_and_loses_none(driver: Driver) {
    let (disk, replica) = (Disk::new(), Replica::new("a"));
    let proxy = disk.proxy(driver, &replica.upstream, "strict");
    let mut client = proxy.connect();
    let ids: Vec<String> = (0..5).map(|_| begin_session_on(&mut client)).collect();
    fs::write(disk.path("fails"), "sync").expect("a broken disk");
    for n in 0..3 {
        let refused = client.ask(&post_json("/mcp", "", &initialize(n)));
        assert_eq!((refused.status, refused.json()["id"].as_u64()), (503, Some(n)), "{refused:?}");
        assert!(refused.one("mcp-session-id").is_none() && refused.head.has("retry-after"));
        assert!(replica.upstream.event().starts_with("ended a-secret-"));
    }
    for id in &ids {
        assert_eq!(proxy.ask(&in_session(id, &request(1, "ping"))).status, 200);
    }
    // The disk comes back.
    fs::remove_file(disk.path("fails")).expect("mended");
    let after = begin_session_on(&mut client);
    proxy.kill();
    let proxy = disk.proxy(driver, &replica.upstream, "strict");
    for id in ids.iter().chain([&after]) {
        assert_eq!(proxy.ask(&in_session(id, &request(2, "ping"))).status, 200);
    }
}

fn a_disk_that_cannot_write_loses_no_session(driver: Driver) {
    let (disk, replica) = (Disk::new(), Replica::new("a"));
    let proxy = disk.proxy(driver, &replica.upstream, "strict");
    let mut client = proxy.connect();
    let ids: Vec<String> = (0..5).map(|_| begin_session_on(&mut client)).collect();
    fs::write(disk.path("fails"), "write").expect("a broken disk");
    let refused = client.ask(&post_json("/mcp", "", &initialize(7)));
    assert_eq!((refused.status, refused.json()["id"].as_u64()), (503, Some(7)), "{refused:?}");
    for id in &ids {
        assert_eq!(proxy.ask(&in_session(id, &request(1, "ping"))).status, 200);
    }
    fs::remove_file(disk.path("fails")).expect("mended");
    wait_for_a_session(&proxy);
    proxy.kill();
    let proxy = disk.proxy(driver, &replica.upstream, "strict");
    for id in &ids {
        assert_eq!(proxy.ask(&in_session(id, &request(2, "ping"))).status, 200);
    }
}

fn a_commit_that_cannot_be_finished_loses_no_session(driver: Driver) {
    let (disk, replica) = (Disk::new(), Replica::new("a"));
    let proxy = disk.proxy(driver, &replica.upstream, "strict");
    let mut client = proxy.connect();
    let ids: Vec<String> = (0..5).map(|_| begin_session_on(&mut client)).collect();
    fs::write(disk.path("fails"), "commit").expect("a broken disk");
    let refused = client.ask(&post_json("/mcp", "", &initialize(7)));
    assert_eq!((refused.status, refused.json()["id"].as_u64()), (503, Some(7)), "{refused:?}");
    fs::remove_file(disk.path("fails")).expect("mended");
    wait_for_a_session(&proxy);
    for id in &ids {
        assert_eq!(proxy.ask(&in_session(id, &request(1, "ping"))).status, 200);
    }
    proxy.kill();
    let proxy = disk.proxy(driver, &replica.upstream, "strict");
    for id in &ids {
        assert_eq!(proxy.ask(&in_session(id, &request(2, "ping"))).status, 200);
    }
}

fn wait_for_a_session(proxy: &Proxy) {
    wait_until("a session to begin again", || proxy.ask(&post_json("/mcp", "", &initialize(1))).status == 200);
}
