//! How many instructions each stage of a request takes, under valgrind: `bench/instructions` runs it and holds the counts
//! against those that are kept.

mod work;

use gungraun::{library_benchmark, library_benchmark_group, main};

/// Warm: buffers have their size, and what is found out once is known.
fn warm(name: &str) -> work::Work {
    let (_, make) = work::STAGES.into_iter().find(|(known, _)| *known == name).expect("a stage");
    let mut run = make();
    run();
    run();
    run
}

#[library_benchmark(setup = warm)]
#[bench::request_head("request_head")]
#[bench::request_head_again("request_head_again")]
#[bench::request_framing("request_framing")]
#[bench::peek("peek")]
#[bench::peek_60k("peek_60k")]
#[bench::request_out("request_out")]
#[bench::response_head("response_head")]
#[bench::response_framing("response_framing")]
#[bench::response_out("response_out")]
#[bench::answer("answer")]
#[bench::events("events")]
#[bench::chunks("chunks")]
#[bench::session("session")]
#[bench::limit("limit")]
#[bench::account("account")]
fn stage(mut run: work::Work) -> work::Work {
    run();
    run
}

library_benchmark_group!(name = stages, benchmarks = stage);
main!(library_benchmark_groups = stages);
