//! L2: configuration in two shapes: the file as written (`file`) and the plan as run (`plan`).

pub mod plan;
