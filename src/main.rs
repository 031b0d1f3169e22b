//! The binary: arguments to a command, its result to an exit code.

use std::process::ExitCode;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // One provider for the whole process, before anything can ask rustls for its default.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match shadowcat::cli::run() {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("shadowcat: {}", failure.message);
            ExitCode::from(failure.code)
        }
    }
}
