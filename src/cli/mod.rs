//! interim
pub mod args;
pub mod serve;
pub struct Failure { pub code: u8, pub message: String }
impl Failure { pub fn config(message: String) -> Failure { Failure { code: 78, message } } }
pub fn run() -> Result<std::process::ExitCode, Failure> { use clap::Parser; let a = args::ServerArgs::parse_from(std::env::args().skip(1)); serve::run(&a) }
pub const STORE_CHECK: &str = "store-check";
