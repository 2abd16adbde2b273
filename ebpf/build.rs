//! Compiles the kernel programs with clang. No BPF object is checked in: what runs is what can be read.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// Newest first; CO-RE with `preserve_access_index` needs 12 or later, and 19 is what the tests run with.
const CLANGS: &[&str] = &["clang-19", "clang-20", "clang-21", "clang-18", "clang-17", "clang-16", "clang"];

fn main() {
    let source = Path::new("src/bpf");
    for entry in fs::read_dir(source).expect("ebpf/src/bpf is part of the crate") {
        println!("cargo::rerun-if-changed={}", entry.expect("a readable folder").path().display());
    }
    println!("cargo::rerun-if-env-changed=CLANG");
    let arch = match env::var("CARGO_CFG_TARGET_ARCH").expect("set by cargo").as_str() {
        "x86_64" => "x86",
        "aarch64" => "arm64",
        other => panic!("AgentSight traces x86_64 and aarch64, not {other}"),
    };
    let output = PathBuf::from(env::var_os("OUT_DIR").expect("set by cargo")).join("agentsight.bpf.o");
    let clang = env::var("CLANG").ok().or_else(find_clang).unwrap_or_else(|| {
        panic!(
            "clang is needed to compile the kernel programs; on Debian: apt-get install clang-19 libbpf-dev"
        )
    });
    let status = Command::new(&clang)
        .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", "-Werror"])
        .arg(format!("-D__TARGET_ARCH_{arch}"))
        // Debian keeps asm/types.h, which linux/types.h includes, in the folder of the architecture.
        .arg(format!("-I/usr/include/{}-linux-gnu", if arch == "x86" { "x86_64" } else { "aarch64" }))
        // Paths of the machine that builds do not belong into the object.
        .arg("-fdebug-prefix-map=src/bpf=agentsight")
        .arg("-c")
        .arg(source.join("agentsight.bpf.c"))
        .arg("-o")
        .arg(&output)
        .status()
        .unwrap_or_else(|error| panic!("cannot run {clang}: {error}"));
    assert!(status.success(), "{clang} failed; are the headers of libbpf (Debian: libbpf-dev) installed?");
}

fn find_clang() -> Option<String> {
    CLANGS
        .iter()
        .find(|clang| {
            Command::new(clang).arg("--version").output().is_ok_and(|output| output.status.success())
        })
        .map(|clang| (*clang).to_owned())
}
