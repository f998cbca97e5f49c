//! What a program and all that it starts ask the kernel for, by strace.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::scene::{Answer, answer};

/// One call. `begun` and `ended` are lines of the log: calls of several threads overlap.
#[derive(Clone, Debug)]
pub struct Call {
    pub begun: usize,
    pub ended: usize,
    pub name: String,
    /// What is between the brackets. Descriptors carry their paths: `7</the/file>`.
    pub arguments: String,
    pub result: String,
}

impl Call {
    /// Whether the file that is worked on, or that was opened, is `path`.
    pub fn is_on(&self, path: &Path) -> bool {
        let shown = format!("<{}", path.display());
        let found = if self.name.starts_with("open") {
            &self.result
        } else {
            self.arguments.split(',').next().unwrap_or("")
        };
        // A block device is followed by its number: `</dev/loop0<blk 7:0>>`.
        found
            .split_once(&shown)
            .is_some_and(|(_, rest)| rest.starts_with(['>', '<']))
    }

    pub fn opens_for_writing(&self) -> bool {
        self.name.starts_with("open")
            && ["O_RDWR", "O_WRONLY", "O_TRUNC", "O_CREAT"]
                .iter()
                .any(|flag| self.arguments.contains(flag))
    }

    pub fn is_flush(&self) -> bool {
        matches!(&*self.name, "fsync" | "fdatasync") && self.result.starts_with('0')
    }
}

/// All that can change a file, or open it, and all that can make it durable.
const CALLS: &str = "trace=open,openat,openat2,creat,write,writev,pwrite64,pwritev,pwritev2,\
    truncate,ftruncate,fallocate,ioctl,copy_file_range,sendfile,splice,fsync,fdatasync,\
    sync_file_range,mmap,rename,renameat,renameat2,unlink,unlinkat,utimensat,fchmod,fchown,\
    io_uring_setup,io_submit";

/// Runs `command` under strace.
pub fn traced(command: &Command, log: &Path) -> (Answer, Vec<Call>) {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "-qq", "-s", "0", "-e", CALLS, "-o"]);
    strace
        .arg(log)
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => strace.env(name, value),
            None => strace.env_remove(name),
        };
    }
    let answer = answer(&mut strace);
    let calls = parse(&String::from_utf8_lossy(&fs::read(log).unwrap()));
    (answer, calls)
}

fn parse(log: &str) -> Vec<Call> {
    let (mut calls, mut pending) = (Vec::new(), BTreeMap::new());
    for (number, line) in log.lines().enumerate() {
        let (process, rest) = line.split_once(' ').unwrap();
        let rest = rest.trim_start();
        if rest.starts_with("---") || rest.starts_with("+++") {
            continue;
        }
        if let Some(begin) = rest.strip_suffix("<unfinished ...>") {
            pending.insert(process, (number, begin.trim_end().to_string()));
            continue;
        }
        let (begun, whole) = match rest.strip_prefix("<... ") {
            None => (number, rest.to_string()),
            Some(end) => {
                let (_, end) = end.split_once(" resumed>").unwrap();
                let (begun, begin) = pending.remove(process).unwrap();
                (begun, begin + end)
            }
        };
        let (name, after) = whole
            .split_once('(')
            .unwrap_or_else(|| panic!("strace: {line}"));
        // A call that never came back has no result.
        let (arguments, result) = after.rsplit_once(" = ").unwrap_or((after, "?"));
        calls.push(Call {
            begun,
            ended: number,
            name: name.into(),
            arguments: arguments.trim_end().trim_end_matches(')').into(),
            result: result.into(),
        });
    }
    calls
}
