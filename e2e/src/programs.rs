//! Small programs that call a model once, for tests of attaching, exporting and passing through.

use crate::model_server::ModelServer;
use crate::process::run;
use crate::python;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A program and its arguments.
pub type Invocation = (OsString, Vec<OsString>);

/// curl, asking under the name `case` in the trace `trace_id`.
pub fn curl(server: &ModelServer, case: &str, trace_id: &str) -> Invocation {
    let arguments = [
        "--silent",
        "--show-error",
        "--fail",
        "--header",
        "content-type: application/json",
        "--header",
        &format!("x-mock-case: {case}"),
        "--header",
        &format!("traceparent: 00-{trace_id}-00f067aa0ba902b7-01"),
        "--data-binary",
        r#"{"model":"gpt-4o-mini","messages":[{"role":"user","content":"One call"}]}"#,
        &format!("{}/v1/chat/completions", server.base()),
    ]
    .map(OsString::from);
    ("curl".into(), server.trust("--cacert").into_iter().chain(arguments).collect())
}

/// Python and its own `ssl`.
pub fn python(server: &ModelServer, case: &str) -> Invocation {
    let script = python::agent("one_call.py");
    (
        python::interpreter().into(),
        [script.into(), server.port().to_string().into(), server.ca().into(), case.into()].into(),
    )
}

/// A C program that does nothing else; built by the first who asks, into `folder`.
///
/// # Panics
/// The C compiler or OpenSSL's headers are missing.
pub fn tls_once(folder: &Path, server: &ModelServer, case: &str) -> Invocation {
    let program = compiled(folder, "tls_once");
    (program.into(), [server.port().to_string().into(), server.ca().into(), case.into()].into())
}

/// A program of `e2e/agents` in C, linked with OpenSSL; built by the first who asks, into `folder`.
///
/// # Panics
/// The C compiler or OpenSSL's headers are missing.
pub fn compiled(folder: &Path, name: &str) -> PathBuf {
    let program = folder.join(name);
    let source = python::agent(&format!("{name}.c"));
    let time = |path: &Path| path.metadata().and_then(|metadata| metadata.modified()).ok();
    if time(&program) < time(&source) {
        compile(&source, &program, &["-lssl".into(), "-lcrypto".into()]);
    }
    program
}

/// Compiles a program and links it with those libraries.
///
/// # Panics
/// The C compiler or OpenSSL's headers are missing.
pub fn compile(source: &Path, program: &Path, libraries: &[OsString]) {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    // Under a name of its own until it is whole: other tests may be at it too.
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let partial = program.with_extension(format!("{}.{number}", std::process::id()));
    let output = run(Command::new("cc")
        .args(["-O1", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&partial)
        .arg(source)
        .args(libraries));
    assert!(output.status.success(), "cc: {}", String::from_utf8_lossy(&output.stderr));
    std::fs::rename(&partial, program).expect("a file of ours");
}

/// The versions of OpenSSL that PyPI's wheels have, a folder each with `libssl.so` and `libcrypto.so` (`scripts/openssl.sh`).
///
/// # Panics
/// They could not be fetched: the script has said why.
pub fn openssl_versions() -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/openssl.sh");
    let output = Command::new(script).stderr(Stdio::inherit()).output().expect("a script of the project");
    assert!(output.status.success(), "scripts/openssl.sh failed");
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}

/// The library file of that name that `program` would load.
///
/// # Panics
/// `ldd` knows none.
pub fn library_of(program: &Path, name: &str) -> PathBuf {
    let output = run(Command::new("ldd").arg(program));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find(|line| line.trim_start().starts_with(name));
    let path = line.and_then(|line| line.split("=> ").nth(1)).and_then(|rest| rest.split(' ').next());
    PathBuf::from(path.unwrap_or_else(|| panic!("{} does not load {name}:\n{text}", program.display())))
}
