//! `snapshot` and `verify` of files: the list, and what became of each.

use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::Context;

use super::answer::{Answer, Outcome};
use crate::mail::files::{Difference, Fate, List, ListError, Tail, Tally, take};
use crate::mail::host::HostTree;
use crate::mail::offline::{self, OfflineTree};
use crate::mail::tree::{Problem, Tree};
use crate::report::Report;
use crate::transaction::mail::Offline;
use crate::transaction::{Look, Stop};
use crate::units::{Bytes, escape, escape_bytes};

/// Differences that are listed; more are counted.
const LISTED: usize = 10_000;
/// Ranges of a file that are printed.
const RANGES: usize = 4;

fn root_of(dir: &Path) -> Result<PathBuf, Stop> {
    let root = std::fs::canonicalize(dir).with_context(|| format!("opening {}", dir.display()))?;
    if !root.is_dir() {
        return Err(Stop::refused(
            "not-a-directory",
            format!("{} is no directory", dir.display()),
            "name a mounted directory, or leave --tree away for a device or image",
        ));
    }
    Ok(root)
}

/// `snapshot --tree`.
pub fn snapshot_tree(dir: &Path, output: &Path, report: &dyn Report) -> Result<Answer, Stop> {
    let root = root_of(dir)?;
    let mut tree = HostTree::new(vec![root.clone()]);
    tree.skip_file(output);
    let answer = Answer::new(Outcome::Done, String::new()).on(escape(&dir.to_string_lossy()));
    list(answer, &tree, root.as_os_str().as_bytes(), output, report)
}

/// Adds the list to a snapshot of blocks.
pub fn and_list(
    answer: Answer,
    look: &Look,
    manifest: &Path,
    report: &dyn Report,
) -> Result<Answer, Stop> {
    let offline = Offline::of(look, report)?;
    let volume = offline::open(&*offline.part).context("opening the file system")?;
    let tree = OfflineTree::read(&volume, report).context("reading the directories")?;
    list(answer, &tree, b"/", &beside(manifest), report)
}

/// The list beside a manifest.
fn beside(manifest: &Path) -> PathBuf {
    let mut name = manifest.as_os_str().to_owned();
    name.push(".files");
    name.into()
}

fn list(
    answer: Answer,
    tree: &dyn Tree,
    root: &[u8],
    output: &Path,
    report: &dyn Report,
) -> Result<Answer, Stop> {
    let parent = output.parent().filter(|p| !p.as_os_str().is_empty());
    let writing = || format!("writing {}", output.display());
    // Beside the file and renamed: one that was there stays whole until the new one is.
    let unfinished =
        tempfile::NamedTempFile::new_in(parent.unwrap_or(Path::new("."))).with_context(writing)?;
    let problems = Mutex::new(Vec::new());
    let keep = |problem: &Problem| {
        if let Ok(mut problems) = problems.lock() {
            problems.push(problem.clone());
        }
    };
    let file = unfinished.reopen().with_context(writing)?;
    let tail = take(tree, root, file, &keep, report).with_context(writing)?;
    unfinished
        .persist(output)
        .map_err(|e| anyhow::Error::from(e.error))
        .with_context(writing)?;
    // Barrier: the name of the list must be found after a power cut.
    File::open(parent.unwrap_or(Path::new(".")))
        .and_then(|dir| dir.sync_all())
        .with_context(writing)?;
    let problems = problems.into_inner().unwrap_or_default();
    let mut answer = answer;
    let Tail { files, bytes, .. } = tail;
    answer.text.push_str(&format!(
        "{files} files, {}, are listed in {}\n",
        Bytes(bytes),
        escape(&output.to_string_lossy())
    ));
    told(&mut answer, &problems);
    Ok(answer.with("files", &tail))
}

fn told(answer: &mut Answer, problems: &[Problem]) {
    for problem in problems.iter().take(20) {
        let path = escape_bytes(&problem.path);
        let error = escape(&problem.error);
        answer
            .text
            .push_str(&format!("could not be looked at: {path}: {error}\n"));
    }
    if problems.len() > 20 {
        answer.text.push_str(&format!(
            "and {} more that could not\n",
            problems.len() - 20
        ));
    }
    if !problems.is_empty() && answer.outcome == Outcome::Done {
        answer.outcome = Outcome::Failed;
    }
}

/// Opens a list.
///
/// # Errors
/// `bad-manifest` where it is none.
pub fn open_list(path: &Path) -> Result<List, Stop> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    List::open(file).map_err(|e| match e {
        ListError::Io(e) => {
            Stop::from(anyhow::Error::from(e).context(format!("reading {}", path.display())))
        }
        e => Stop::refused(
            "bad-manifest",
            format!("{}: {e}", path.display()),
            "take a new one: holdfast snapshot --tree DIR -o FILE",
        ),
    })
}

/// `verify --tree`.
pub fn verify_tree(dir: &Path, manifest: &Path, report: &dyn Report) -> Result<Answer, Stop> {
    let root = root_of(dir)?;
    let list = open_list(manifest)?;
    let mut tree = HostTree::new(vec![root.clone()]);
    tree.skip_file(manifest);
    let answer = Answer::new(Outcome::Done, String::new()).on(escape(&dir.to_string_lossy()));
    compare(answer, &list, &tree, root.as_os_str().as_bytes(), report)
}

/// Adds the comparison of files to one of blocks.
pub fn and_compare(
    answer: Answer,
    look: &Look,
    manifest: &Path,
    report: &dyn Report,
) -> Result<Answer, Stop> {
    let list = open_list(&beside(manifest))?;
    let offline = Offline::of(look, report)?;
    let volume = offline::open(&*offline.part).context("opening the file system")?;
    let tree = OfflineTree::read(&volume, report).context("reading the directories")?;
    compare(answer, &list, &tree, b"/", report)
}

fn compare(
    mut answer: Answer,
    list: &List,
    tree: &dyn Tree,
    root: &[u8],
    report: &dyn Report,
) -> Result<Answer, Stop> {
    let found = Mutex::new(Vec::new());
    let problems = Mutex::new(Vec::new());
    let give = |difference: &Difference| -> io::Result<()> {
        if let Ok(mut found) = found.lock()
            && found.len() < LISTED
        {
            found.push(difference.clone());
        }
        Ok(())
    };
    let keep = |problem: &Problem| {
        if let Ok(mut problems) = problems.lock() {
            problems.push(problem.clone());
        }
    };
    let tally = list
        .compare(tree, root, &give, &keep, report)
        .context("comparing the files with the list")?;
    let mut found = found.into_inner().unwrap_or_default();
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
        .iter()
        .for_each(|difference| answer.text.push_str(&line(difference)));
    answer.text.push_str(&summary(&tally));
    if !tally.is_same() {
        answer.outcome = Outcome::Differs;
    }
    told(&mut answer, &problems.into_inner().unwrap_or_default());
    Ok(answer.with("tally", &tally).with("differences", &found))
}

fn line(difference: &Difference) -> String {
    let path = &difference.path;
    match &difference.fate {
        Fate::Missing => format!("missing  {path}\n"),
        Fate::New => format!("new      {path}\n"),
        Fate::Moved { to } => format!("moved    {to}\n         is the content of {path}\n"),
        Fate::Changed { ranges, silent } => {
            let mut said: Vec<String> = (ranges.iter().take(RANGES))
                .map(|(extent, how)| {
                    format!("bytes {} to {} {}", extent.start, extent.end(), how.name())
                })
                .collect();
            if ranges.len() > RANGES {
                said.push(format!("and {} more", ranges.len() - RANGES));
            }
            let silent = match silent {
                true => "; its length and time are as they were",
                false => "",
            };
            format!("changed  {path}\n         {}{silent}\n", said.join(", "))
        }
    }
}

fn summary(tally: &Tally) -> String {
    let mut text = format!(
        "{} files in the list: {} unchanged, {} changed, {} moved, {} missing; {} new\n",
        tally.listed, tally.unchanged, tally.changed, tally.moved, tally.missing, tally.new
    );
    if tally.messages > 0 {
        text.push_str(&format!(
            "{} messages in the list, {} of them identical\n",
            tally.messages, tally.messages_identical
        ));
    }
    text
}
