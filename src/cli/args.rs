//! interim
#[derive(clap::Parser)]
pub struct ServerArgs { #[arg(long)] pub bind: Option<String>, #[arg(long)] pub upstream: Vec<String>, #[arg(long)] pub workers: Option<usize>, #[arg(long)] pub driver: Option<String>, #[arg(long)] pub demo: bool }
impl ServerArgs { pub fn sources(&self) -> crate::config::Sources { crate::config::Sources { upstreams: self.upstream.clone(), in_memory: true, bind: self.bind.clone(), workers: self.workers, driver: self.driver.clone() } } pub fn names_a_store(&self) -> bool { false } }
