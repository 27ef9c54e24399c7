//! Finds the BPF objects that `objects.rs` embeds: in `XLB_BPF_OBJECTS`, else in `target/bpf/objects`
//! of the workspace, where `cargo xtask build` puts them.

use std::{env, path::PathBuf, process::exit};

/// The programs that are embedded, each from `NAME.o`.
const PROGRAMS: [&str; 4] = ["balancer", "bench", "decap", "probe"];

fn main() {
    println!("cargo::rerun-if-env-changed=XLB_BPF_OBJECTS");
    let objects = env::var_os("XLB_BPF_OBJECTS").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/bpf/objects"),
        PathBuf::from,
    );
    for program in PROGRAMS {
        let object = objects.join(format!("{program}.o"));
        println!("cargo::rerun-if-changed={}", object.display());
        let embedded = match object.canonicalize() {
            Ok(path) => path,
            Err(error) => fail(&format!(
                "the BPF object {} cannot be read ({error}): run `cargo xtask build`",
                object.display()
            )),
        };
        let variable = format!("XLB_BPF_OBJECT_{}", program.to_uppercase());
        println!("cargo::rustc-env={variable}={}", embedded.display());
    }
}

fn fail(message: &str) -> ! {
    println!("cargo::error={message}");
    exit(1)
}
