//! `holdfast mail`: what can be typed, and what is printed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::json;

use super::answer::{Answer, Outcome};
use super::files::open_list;
use super::run::harmless_json;
use crate::disk::survey::{Host, shell_word};
use crate::mail::files::{Difference, Fate, List, is_lost_and_found};
use crate::mail::finding::{Confidence, Finding, Kind, Name, Readable, Stamp, Store};
use crate::mail::host::HostTree;
use crate::mail::offline::{self, OfflineTree};
use crate::mail::place::{is_cyrus_message, last, parent};
use crate::mail::quarantine::{Choice, Quarantine, Taken};
use crate::mail::scan::{Sink, Totals, scan};
use crate::mail::server;
use crate::mail::tree::{Problem, Tree, join};
use crate::plan::SCHEMA;
use crate::report::{Refusal, Report};
use crate::transaction::mail::Offline;
use crate::transaction::{Asked, Look, Stop};
use crate::units::{Bytes, escape, escape_bytes};

/// `holdfast mail …`
#[derive(Debug, Subcommand)]
pub enum MailCommand {
    /// Find damaged messages; reads only
    Scan(ScanArgs),
    /// Move damaged messages aside; deletes nothing, and `mail restore` puts them back
    Quarantine(QuarantineArgs),
    /// Put everything back that `mail quarantine` moved
    Restore(RestoreArgs),
}

impl MailCommand {
    /// Its name, as it is typed.
    pub fn name(&self) -> &'static str {
        match self {
            MailCommand::Scan(_) => "mail scan",
            MailCommand::Quarantine(_) => "mail quarantine",
            MailCommand::Restore(_) => "mail restore",
        }
    }
}

/// Options of `mail quarantine`.
#[derive(Clone, Debug, Args)]
pub struct QuarantineArgs {
    /// What `mail scan --jsonl` or `--json` wrote
    pub findings: PathBuf,
    /// Where the files go; made where it is not there
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
    /// Only what is of this kind; may be given several times [default: all about messages]
    #[arg(long, value_name = "KIND")]
    pub kind: Vec<Kind>,
    /// Leave what is less sure than this: suspicious, likely or certain
    #[arg(long, value_name = "LEVEL", default_value = "certain")]
    pub at_least: Confidence,
    /// Although a mail server may be using the store
    #[arg(long)]
    pub online: bool,
    /// Do it; without this it is only said what would be moved
    #[arg(long, short)]
    pub yes: bool,
}

/// Options of `mail restore`.
#[derive(Clone, Debug, Args)]
pub struct RestoreArgs {
    /// Where `mail quarantine` moved them to
    pub dir: PathBuf,
    /// Although a mail server may be using the store
    #[arg(long)]
    pub online: bool,
    /// Do it; without this it is only said what would be put back
    #[arg(long, short)]
    pub yes: bool,
}

/// Options of `mail scan`.
#[derive(Clone, Debug, Args)]
pub struct ScanArgs {
    /// Directories and files of mail stores; which kind they are is found out
    #[arg(required_unless_present = "device", value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Read a device or image offline instead, in the order in which its files lie there
    #[arg(long, value_name = "TARGET", conflicts_with = "paths")]
    pub device: Option<PathBuf>,
    /// The partition's number, where --device is a whole disk or an image of one
    #[arg(long, short, value_name = "N", requires = "device")]
    pub partition: Option<u32>,
    /// Compare with a list that `snapshot --tree`, or `snapshot --files` of a device, made
    #[arg(long, value_name = "LIST")]
    pub against: Option<PathBuf>,
    /// Print each finding as a line of JSON as soon as it is found, and a summary as the last line
    #[arg(long, conflicts_with = "json")]
    pub jsonl: bool,
    /// Print a table by mailbox instead of each finding
    #[arg(long, conflicts_with = "jsonl")]
    pub report: bool,
    /// Leave out what is less sure than this: suspicious, likely or certain
    #[arg(long, value_name = "LEVEL", default_value = "suspicious")]
    pub at_least: Confidence,
}

/// Findings that are kept for a sorted list; more are counted alone.
const KEPT: usize = 10_000;
/// Problems that are named.
const NAMED: usize = 20;

/// Runs one of the commands.
pub fn run(command: &MailCommand, report: &dyn Report) -> Result<Answer, Stop> {
    match command {
        MailCommand::Scan(args) => run_scan(args, report),
        MailCommand::Quarantine(args) => run_quarantine(args),
        MailCommand::Restore(args) => run_restore(args),
    }
}

/// Reads findings: lines of JSON, or the one document.
fn read_findings(path: &Path, take: &mut dyn FnMut(Finding)) -> Result<(), Stop> {
    let bad = |what: String| {
        Stop::refused(
            "bad-findings",
            format!("{} is not what `mail scan` wrote: {what}", path.display()),
            "write them with: holdfast mail scan --jsonl PATH >FILE",
        )
    };
    let file = File::open(path).with_context(|| format!("reading {}", path.display()))?;
    let mut reader = BufReader::new(file);
    let values =
        serde_json::Deserializer::from_reader(&mut reader).into_iter::<serde_json::Value>();
    let mut any = false;
    for value in values {
        let mut value = value.map_err(|e| bad(e.to_string()))?;
        let one = |value: serde_json::Value| {
            serde_json::from_value::<Finding>(value).map_err(|e| bad(e.to_string()))
        };
        any |= value.get("summary").is_some();
        if let Some(finding) = value.get_mut("finding") {
            take(one(finding.take())?);
        } else if let Some(list) = value.get_mut("findings").and_then(|v| v.as_array_mut()) {
            any = true;
            for finding in list.drain(..) {
                take(one(finding)?);
            }
        }
    }
    match any {
        true => Ok(()),
        false => Err(bad("its last line, the summary, is missing".into())),
    }
}

fn in_use(paths: &[(Name, Store)]) -> Option<Refusal> {
    let mailboxes: BTreeSet<PathBuf> = (paths.iter())
        .map(|(name, _)| PathBuf::from(std::ffi::OsStr::from_bytes(&name.0)))
        .collect();
    let stores: Vec<Store> = paths.iter().map(|(_, store)| *store).collect();
    server::in_use(&Host::default(), &mailboxes, &stores)
}

fn run_quarantine(args: &QuarantineArgs) -> Result<Answer, Stop> {
    let choice = Choice {
        kinds: args.kind.clone(),
        at_least: args.at_least,
    };
    let (mut chosen, mut shared) = (Vec::new(), 0u64);
    read_findings(
        &args.findings,
        &mut |finding| match choice.takes(&finding) {
            Taken::Yes => chosen.push(finding),
            Taken::Shared => shared += 1,
            Taken::No => {}
        },
    )?;
    let mut text = String::new();
    let files: BTreeSet<&Name> = chosen.iter().map(|f| &f.path).collect();
    if shared > 0 {
        text.push_str(&format!(
            "{shared} findings are left: their files hold other messages, or the store's own data\n"
        ));
    }
    if chosen.is_empty() {
        return Ok(Answer::new(
            Outcome::NoChange,
            text + "nothing is to be moved\n",
        ));
    }
    let mailboxes: BTreeSet<(Name, Store)> = chosen
        .iter()
        .map(|f| (f.mailbox.clone(), f.store))
        .collect();
    if !args.yes {
        for path in &files {
            text.push_str(&format!("would move {path}\n"));
        }
        text.push_str(&format!(
            "{} files; nothing was moved: --yes moves them\n",
            files.len()
        ));
        return Ok(Answer::new(Outcome::NoChange, text).with("files", files));
    }
    let mailboxes: Vec<(Name, Store)> = mailboxes.into_iter().collect();
    if !args.online
        && let Some(refusal) = in_use(&mailboxes)
    {
        return Err(Stop::Refused(vec![refusal]));
    }
    let mut quarantine = Quarantine::create(&args.to).map_err(|e| bad_directory(&args.to, &e))?;
    let ran = quarantine
        .take(&chosen)
        .with_context(|| format!("writing the log in {}", args.to.display()))?;
    let left: BTreeSet<&Name> = ran.left.iter().map(|(name, _)| name).collect();
    let moved: Vec<&Finding> = chosen.iter().filter(|f| !left.contains(&f.path)).collect();
    let commands = server::commands(&moved);
    text.push_str(&left_over(&ran.left));
    let dir = shell_word(&args.to);
    text.push_str(&format!(
        "{} files moved to {dir}; put them back with: holdfast mail restore --yes {dir}\n",
        ran.moved
    ));
    if !commands.is_empty() {
        text.push_str("then let the server look again:\n");
        commands
            .iter()
            .for_each(|command| text.push_str(&format!("  {command}\n")));
    }
    let outcome = if ran.left.is_empty() {
        Outcome::Done
    } else {
        Outcome::Failed
    };
    Ok(Answer::new(outcome, text)
        .with("moved", ran.moved)
        .with("left", &ran.left)
        .with("commands", commands))
}

fn left_over(left: &[(Name, String)]) -> String {
    left.iter()
        .map(|(name, why)| format!("left {name}: {}\n", escape(why)))
        .collect()
}

fn bad_directory(path: &Path, e: &io::Error) -> Stop {
    Stop::refused(
        "bad-quarantine",
        format!("{} cannot serve as a quarantine: {e}", path.display()),
        "name an empty directory, a new one, or one of an earlier run",
    )
}

fn run_restore(args: &RestoreArgs) -> Result<Answer, Stop> {
    let mut quarantine = Quarantine::open(&args.dir).map_err(|e| bad_directory(&args.dir, &e))?;
    let waiting = quarantine.waiting();
    if waiting.is_empty() {
        return Ok(Answer::new(
            Outcome::NoChange,
            "nothing is to be put back\n",
        ));
    }
    if !args.yes {
        let mut text = String::new();
        for moved in &waiting {
            text.push_str(&format!("would put back {}\n", moved.from));
        }
        text.push_str(&format!(
            "{} files; nothing was moved: --yes does it\n",
            waiting.len()
        ));
        return Ok(Answer::new(Outcome::NoChange, text));
    }
    let places: BTreeSet<Name> = waiting
        .iter()
        .map(|m| Name(parent(&m.from.0).to_vec()))
        .collect();
    let places: Vec<(Name, Store)> = places.into_iter().map(|p| (p, Store::Maildir)).collect();
    if !args.online
        && let Some(refusal) = in_use(&places)
    {
        return Err(Stop::Refused(vec![refusal]));
    }
    let ran = quarantine
        .restore()
        .with_context(|| format!("writing the log in {}", args.dir.display()))?;
    let text = left_over(&ran.left) + &format!("{} files put back\n", ran.moved);
    let outcome = if ran.left.is_empty() {
        Outcome::Done
    } else {
        Outcome::Failed
    };
    Ok(Answer::new(outcome, text)
        .with("restored", ran.moved)
        .with("left", &ran.left))
}

fn run_scan(args: &ScanArgs, report: &dyn Report) -> Result<Answer, Stop> {
    let heard = Heard::new(args);
    let list = args.against.as_deref().map(open_list).transpose()?;
    let totals = match &args.device {
        Some(device) => {
            let asked = Asked {
                target: device.clone(),
                partition: args.partition,
                sector_bytes: None,
            };
            let offline = Offline::of(&Look::at(&asked)?, report)?;
            let volume = offline::open(&*offline.part).context("opening the file system")?;
            let tree = OfflineTree::read(&volume, report).context("reading the directories")?;
            let mut totals = scan_tree(&tree, b"/", list.as_ref(), &heard, report)?;
            overlaps(&tree, &heard, &mut totals)
                .context("telling of blocks that two files have")?;
            totals
        }
        None => {
            // Findings name files so that another command, started elsewhere, finds them:
            // absolute, and without links.
            let absolute = |path: &PathBuf| {
                std::fs::canonicalize(path).with_context(|| format!("opening {}", path.display()))
            };
            let roots = args
                .paths
                .iter()
                .map(absolute)
                .collect::<Result<Vec<_>, _>>()?;
            if list.is_some() && roots.len() != 1 {
                return Ok(usage(
                    "--against goes with one PATH: the one that was listed",
                ));
            }
            let root = roots
                .first()
                .map(|r| r.as_os_str().as_bytes().to_vec())
                .unwrap_or_default();
            let mut tree = HostTree::new(roots);
            if let Some(against) = &args.against {
                tree.skip_file(against);
            }
            scan_tree(&tree, &root, list.as_ref(), &heard, report)?
        }
    };
    Ok(heard.answer(args, &totals))
}

fn usage(text: &str) -> Answer {
    Answer {
        error: Some(text.into()),
        ..Answer::new(Outcome::Usage, format!("{text}\n"))
    }
}

fn scan_tree(
    tree: &dyn Tree,
    root: &[u8],
    list: Option<&List>,
    heard: &Heard,
    report: &dyn Report,
) -> Result<Totals, Stop> {
    let mut totals = scan(tree, heard, report).map_err(|e| Stop::from(anyhow::Error::from(e)))?;
    let Some(list) = list else { return Ok(totals) };
    let more = Mutex::new(Totals::default());
    let give = |difference: &Difference| match finding_of(difference, root) {
        None => Ok(()),
        Some(finding) => {
            if let Ok(mut more) = more.lock() {
                more.tell(&finding);
            }
            heard.finding(&finding)
        }
    };
    let problem = |_: &Problem| {};
    list.compare(tree, root, &give, &problem, report)
        .context("comparing the files with the list")?;
    let more = more.into_inner().unwrap_or_else(PoisonError::into_inner);
    totals.also(&more);
    Ok(totals)
}

/// What a difference says about a message. A message is never changed where it is; other files
/// are, but not behind the back of their time stamp.
fn finding_of(difference: &Difference, root: &[u8]) -> Option<Finding> {
    let listed = difference.listed.as_ref()?;
    let path = join(root, &listed.path.0);
    let (kind, confidence, ranges, reason) = match &difference.fate {
        Fate::Changed { ranges, silent } if listed.message || *silent => {
            let how: BTreeSet<&str> = ranges.iter().map(|(_, how)| how.name()).collect();
            let how: Vec<&str> = how.into_iter().collect();
            let silent = if *silent {
                ", and its length and time are as they were"
            } else {
                ""
            };
            let reason = format!(
                "parts of what the list has are {}{silent}",
                how.join(" and ")
            );
            let ranges = ranges.iter().map(|(extent, _)| *extent).collect();
            (Kind::Changed, Confidence::Certain, ranges, reason)
        }
        // Users delete mail.
        Fate::Missing if listed.message => {
            let reason = "the list has it, and neither it nor its content is there".to_string();
            (Kind::Missing, Confidence::Suspicious, Vec::new(), reason)
        }
        Fate::Moved { to } if is_lost_and_found(&to.0) => {
            let reason = format!("its content is there as {to}");
            (Kind::Missing, Confidence::Certain, Vec::new(), reason)
        }
        _ => return None,
    };
    Some(Finding {
        store: store_of(&path),
        mailbox: Name(parent(&path).to_vec()),
        path: Name(path),
        kind,
        confidence,
        ranges,
        unpacked: false,
        reason,
        readable: Readable {
            message_id: listed.message_id.clone(),
            ..Readable::default()
        },
        stamp: Stamp {
            size: listed.size,
            inode: listed.inode,
            mtime: listed.mtime,
            mtime_nanos: listed.mtime_nanos,
        },
    })
}

fn store_of(path: &[u8]) -> Store {
    match (last(parent(path)), last(path)) {
        (b"cur" | b"new", _) => Store::Maildir,
        (b"dbox-Mails", _) => Store::Sdbox,
        (b"storage", name) if name.starts_with(b"m.") => Store::Mdbox,
        (_, name) if is_cyrus_message(name) => Store::Cyrus,
        _ => Store::Eml,
    }
}

/// Two files that have the same blocks of the disk: at most one of them is right.
fn overlaps(tree: &OfflineTree<'_>, heard: &Heard, totals: &mut Totals) -> io::Result<()> {
    let wanted: BTreeSet<u32> = tree.overlaps.iter().flat_map(|o| o.inodes).collect();
    let paths = tree.paths(&wanted);
    let path_of = |inode: u32| {
        paths
            .get(&inode)
            .cloned()
            .unwrap_or_else(|| format!("inode {inode}").into_bytes())
    };
    for overlap in &tree.overlaps {
        for (this, other) in [(0, 1), (1, 0)] {
            let path = path_of(overlap.inodes[this]);
            let finding = Finding {
                store: store_of(&path),
                mailbox: Name(parent(&path).to_vec()),
                path: Name(path),
                kind: Kind::CrossLinked,
                confidence: Confidence::Certain,
                ranges: vec![overlap.ranges[this]],
                unpacked: false,
                reason: format!(
                    "bytes {} to {} of the partition belong to {} as well",
                    overlap.place.start,
                    overlap.place.end(),
                    Name(path_of(overlap.inodes[other])),
                ),
                readable: Readable::default(),
                stamp: Stamp {
                    inode: overlap.inodes[this].into(),
                    ..Stamp::default()
                },
            };
            totals.tell(&finding);
            heard.finding(&finding)?;
        }
    }
    Ok(())
}

/// What a mailbox has.
#[derive(Clone, Debug, Serialize)]
struct Row {
    store: Store,
    findings: u64,
    kinds: BTreeMap<Kind, u64>,
    surest: Confidence,
    /// The oldest and the newest change of a file with a finding, seconds since 1970.
    since: i64,
    until: i64,
}

#[derive(Debug, Default)]
struct Kept {
    findings: Vec<Finding>,
    all: u64,
    mailboxes: BTreeMap<Name, Row>,
    problems: Vec<Problem>,
}

/// Keeps what people are to read; a stream of lines goes out at once.
struct Heard {
    jsonl: bool,
    at_least: Confidence,
    kept: Mutex<Kept>,
}

impl Heard {
    fn new(args: &ScanArgs) -> Heard {
        Heard {
            jsonl: args.jsonl,
            at_least: args.at_least,
            kept: Mutex::default(),
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(self, args: &ScanArgs, totals: &Totals) -> Answer {
        let jsonl = self.jsonl;
        let mut kept = self
            .kept
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        kept.findings
            .sort_by(|a, b| (&a.path, a.kind).cmp(&(&b.path, b.kind)));
        let outcome = match (kept.all, totals.problems) {
            (0, 0) => Outcome::Done,
            // What could not be read may be damaged.
            (0, _) => Outcome::Failed,
            _ => Outcome::Differs,
        };
        let shown: Vec<String> = args
            .paths
            .iter()
            .chain(&args.device)
            .map(|p| escape(&p.to_string_lossy()))
            .collect();
        let problems: Vec<_> = kept.problems.iter().map(problem).collect();
        if jsonl {
            let last = json!({"summary": {
                "schema": SCHEMA, "command": "mail scan", "outcome": outcome,
                "exit_code": outcome.exit_code(), "totals": totals, "mailboxes": &kept.mailboxes.len(),
            }});
            return Answer::new(outcome, harmless_json(&last.to_string()));
        }
        let text = match args.report {
            true => table(&kept) + &summary(&kept, totals),
            false => list(&kept) + &summary(&kept, totals),
        };
        let mailboxes: Vec<_> = (kept.mailboxes.iter())
            .map(|(name, row)| json!({"mailbox": name, "row": row}))
            .collect();
        let more = kept.all - kept.findings.len() as u64;
        Answer::new(outcome, text)
            .on(shown.join(" "))
            .with("totals", totals)
            .with("mailboxes", mailboxes)
            .with("findings", &kept.findings)
            .with("more_findings", more)
            .with("problems", problems)
    }
}

fn problem(problem: &Problem) -> serde_json::Value {
    json!({"path": Name(problem.path.clone()), "error": escape(&problem.error)})
}

impl Sink for Heard {
    fn finding(&self, finding: &Finding) -> io::Result<()> {
        if finding.confidence < self.at_least {
            return Ok(());
        }
        let mut kept = self.kept();
        kept.all += 1;
        kept.row(finding);
        if self.jsonl {
            let line = harmless_json(&json!({"finding": finding}).to_string());
            // Under the lock: lines must not mix.
            return io::stdout().lock().write_all(line.as_bytes());
        }
        if kept.findings.len() < KEPT {
            kept.findings.push(finding.clone());
        }
        Ok(())
    }

    fn problem(&self, found: &Problem) {
        let mut kept = self.kept();
        if self.jsonl {
            let line = harmless_json(&json!({"problem": problem(found)}).to_string());
            let _ = io::stdout().lock().write_all(line.as_bytes());
        } else if kept.problems.len() < NAMED {
            kept.problems.push(found.clone());
        }
    }
}

impl Kept {
    fn row(&mut self, finding: &Finding) {
        let row = self
            .mailboxes
            .entry(finding.mailbox.clone())
            .or_insert_with(|| Row {
                store: finding.store,
                findings: 0,
                kinds: BTreeMap::new(),
                surest: finding.confidence,
                since: finding.stamp.mtime,
                until: finding.stamp.mtime,
            });
        row.findings += 1;
        *row.kinds.entry(finding.kind).or_default() += 1;
        row.surest = row.surest.max(finding.confidence);
        row.since = row.since.min(finding.stamp.mtime);
        row.until = row.until.max(finding.stamp.mtime);
    }
}

fn list(kept: &Kept) -> String {
    let mut text = String::new();
    for finding in &kept.findings {
        text.push_str(&format!(
            "{:10} {:16} {}\n{:27} {}\n",
            finding.confidence, finding.kind, finding.path, "", finding.reason
        ));
        let readable = &finding.readable;
        let fields = [
            ("from", &readable.from),
            ("date", &readable.date),
            ("subject", &readable.subject),
        ];
        let said: Vec<String> = (fields.iter())
            .filter_map(|(name, value)| value.as_ref().map(|v| format!("{name} {v}")))
            .collect();
        if !said.is_empty() {
            text.push_str(&format!("{:27} still readable: {}\n", "", said.join("; ")));
        }
    }
    let more = kept.all - kept.findings.len() as u64;
    if more > 0 {
        text.push_str(&format!(
            "and {more} more: `--jsonl` lists them all, `--report` by mailbox\n"
        ));
    }
    if kept.all > 0 {
        text.push('\n');
    }
    text
}

fn table(kept: &Kept) -> String {
    if kept.mailboxes.is_empty() {
        return String::new();
    }
    let mut text = format!(
        "{:>8}  {:10}  {:10}  {:23}  MAILBOX, AND WHAT WAS FOUND\n",
        "FINDINGS", "SUREST", "STORE", "LAST CHANGED"
    );
    for (mailbox, row) in &kept.mailboxes {
        let kinds: Vec<String> = row
            .kinds
            .iter()
            .map(|(kind, count)| format!("{count} {kind}"))
            .collect();
        let (since, until) = (date(row.since), date(row.until));
        let when = if since == until {
            since
        } else {
            format!("{since} – {until}")
        };
        text.push_str(&format!(
            "{:8}  {:10}  {:10}  {:23}  {}: {}\n",
            row.findings,
            row.surest,
            row.store,
            when,
            mailbox,
            kinds.join(", ")
        ));
    }
    text.push('\n');
    text
}

/// `2024-02-29`, in UTC.
fn date(seconds: i64) -> String {
    // Days from civil, the other way round (H. Hinnant, "chrono-compatible low-level date algorithms").
    let z = seconds
        .div_euclid(86_400)
        .clamp(-1_000_000_000, 1_000_000_000)
        + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

fn summary(kept: &Kept, totals: &Totals) -> String {
    let mut text = String::new();
    for problem in &kept.problems {
        let path = escape_bytes(&problem.path);
        text.push_str(&format!(
            "could not be looked at: {path}: {}\n",
            escape(&problem.error)
        ));
    }
    let named = kept.problems.len() as u64;
    if totals.problems > named {
        text.push_str(&format!(
            "and {} more that could not\n",
            totals.problems - named
        ));
    }
    let stores: Vec<String> = totals
        .stores
        .iter()
        .map(|(store, count)| format!("{count} {store}"))
        .collect();
    text.push_str(&format!(
        "{} messages in {} files, {}{}{}; {} other files\n",
        totals.messages,
        totals.files,
        Bytes(totals.bytes),
        if stores.is_empty() { "" } else { ": " },
        stores.join(", "),
        totals.other_files
    ));
    for (kind, levels) in &totals.findings {
        let levels: Vec<String> = (levels.iter().rev())
            .map(|(level, count)| format!("{count} {level}"))
            .collect();
        text.push_str(&format!("  {:16} {}\n", kind, levels.join(", ")));
    }
    text.push_str(&match (totals.damaged_files, totals.problems) {
        (0, 0) => "nothing is wrong with them\n".to_string(),
        (0, _) => "nothing is wrong with those that could be read\n".to_string(),
        (n, _) => format!(
            "{n} damaged files, {} of them certainly or likely\n",
            totals.surely_damaged_files
        ),
    });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(1_709_164_800), "2024-02-29");
        assert_eq!(date(-1), "1969-12-31");
        assert_eq!(date(4_102_444_800), "2100-01-01");
    }
}
