//! How long each stage of a request takes: `cargo bench --bench stages`.

mod work;

fn main() {
    divan::main();
}

#[divan::bench(args = work::STAGES.map(|(name, _)| name))]
fn stage(bencher: divan::Bencher<'_, '_>, name: &str) {
    let (_, make) = work::STAGES.into_iter().find(|(known, _)| *known == name).expect("a stage");
    let mut run = make();
    run();
    bencher.bench_local(run);
}
