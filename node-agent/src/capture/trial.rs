//! Whether this kernel takes our programs: each is loaded, looked at and let go again. Only those at
//! the kernel's sockets and pipes are attached, for a moment.

use super::programs::{self, More, Programs, one_line};
use super::sockets::{self, Stage};
use agentsight_ebpf::OBJECT;
use aya::programs::{Program, ProgramError, ProgramInfo};
use aya::{Btf, EbpfLoader, VerifierLogLevel};
use serde::Serialize;
use std::time::{Duration, Instant};

/// What the kernel said to each program.
#[derive(Serialize, Clone, PartialEq, Eq, Default, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Trial {
    /// Why nothing can be traced; absent where it can: a program that may be refused has a stand-in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Why plain HTTP cannot be seen; absent where it can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plaintext_error: Option<String>,
    /// Why MCP over standard input and output cannot be seen; absent where it can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdio_error: Option<String>,
    /// Why rustls cannot be seen; absent where it can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rustls_error: Option<String>,
    /// All programs, by name.
    pub programs: Vec<Verdict>,
}

/// What the kernel said to one program.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// Its name in the object.
    pub name: String,
    /// Instructions that the verifier looked at, of at most a million; kernels before 5.16 do not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verified_instructions: Option<u32>,
    /// How long that took, in microseconds.
    pub load_micros: u64,
    /// The last line of the verifier's words, where it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
}

impl Trial {
    /// Loads everything, for as long as that takes: a second or two.
    pub fn run() -> Trial {
        let mut trial = Trial::default();
        match Programs::load(programs::SMALLEST_RING_BYTES) {
            // Attached for a moment: some kernels take a program and refuse it its place. It selects nothing.
            Ok((mut programs, _)) => {
                let said = |result: Result<(), sockets::Error>| result.err().map(|error| error.to_string());
                trial.plaintext_error = said(programs.see(More::Plaintext, Stage::Attached));
                trial.stdio_error = said(programs.see(More::Stdio, Stage::Attached));
                trial.rustls_error = said(programs.see_records(Stage::Attached));
            }
            Err(error) => trial.error = Some(one_line(&error)),
        }
        trial.programs = verdicts().unwrap_or_default();
        trial
    }

    /// The programs that were refused.
    pub fn refused(&self) -> impl Iterator<Item = &Verdict> {
        self.programs.iter().filter(|verdict| verdict.refusal.is_some())
    }

    /// How long all of it took.
    pub fn time(&self) -> Duration {
        Duration::from_micros(self.programs.iter().map(|verdict| verdict.load_micros).sum())
    }

    /// The most that the verifier looked at for one program.
    pub fn most_instructions(&self) -> Option<u32> {
        self.programs.iter().filter_map(|verdict| verdict.verified_instructions).max()
    }
}

/// None where the kernel refuses already the maps, which [`Trial::error`] tells.
fn verdicts() -> Option<Vec<Verdict>> {
    let btf = Btf::from_sys_fs().ok()?;
    let mut object = EbpfLoader::new()
        .btf(Some(&btf))
        .map_max_entries("ring", programs::SMALLEST_RING_BYTES)
        .verifier_log_level(VerifierLogLevel::STATS)
        .load(OBJECT)
        .ok()?;
    let mut verdicts: Vec<Verdict> = object
        .programs_mut()
        .map(|(name, program)| {
            let start = Instant::now();
            let result =
                load(program, sockets::present(sockets::function_of(name).unwrap_or_default(), &btf), &btf);
            let load_micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
            Verdict {
                name: name.to_owned(),
                verified_instructions: result.as_ref().ok().and_then(ProgramInfo::verified_instruction_count),
                load_micros,
                refusal: result.err().map(|error| one_line(&error)),
            }
        })
        .collect();
    verdicts.sort_by(|a, b| a.name.cmp(&b.name));
    Some(verdicts)
}

/// `function`: of the kernel, where the program is for one.
fn load(program: &mut Program, function: &str, btf: &Btf) -> Result<ProgramInfo, ProgramError> {
    match program {
        Program::UProbe(program) => program.load().and_then(|()| program.info()),
        Program::RawTracePoint(program) => program.load().and_then(|()| program.info()),
        Program::TracePoint(program) => program.load().and_then(|()| program.info()),
        Program::KProbe(program) => program.load().and_then(|()| program.info()),
        Program::FEntry(program) => program.load(function, btf).and_then(|()| program.info()),
        Program::FExit(program) => program.load(function, btf).and_then(|()| program.info()),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}
