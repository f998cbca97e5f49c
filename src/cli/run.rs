//! From what was typed to what is printed.

use std::io::{self, BufRead, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::answer::{Answer, Outcome, outcome_of};
use super::args::{
    ChangeArgs, Cli, Command, Common, ExportArg, PlanArgs, PlanCommand, RecoverVerifyArg,
    TargetArgs,
};
use super::progress::Progress;
use super::render;
use crate::disk::survey::shell_word;
use crate::export::{How, enter_user_namespace};
use crate::fs::Direction;
use crate::journal::Side;
use crate::plan::{Plan, Request, SCHEMA, To, Verdict};
use crate::report::{Refusal, checkpoint};
use crate::transaction::undo::{self, Undone, Way};
use crate::transaction::{
    Asked, Look, Options, Planned, Stop, Store, carry_out, change, check, make_plan, manifest,
};
use crate::units::{escape, tame};

/// Parses the command line, runs the command, prints its result, and says which exit code it has.
pub fn main() -> ExitCode {
    // The list of exit codes stands in the help of the program; each command points there.
    let line = Cli::command().mut_subcommands(with_exit_codes);
    let parsed = line
        .try_get_matches()
        .and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(e) => return usage(&e),
    };
    if !nix::unistd::geteuid().is_root() {
        // Before there is a second thread. Where the host does not allow it, the command that needs
        // a room for its tools says so.
        let _ = enter_user_namespace();
    }
    let stop = Arc::new(AtomicBool::new(false));
    hear_signals(&stop);
    let progress = Progress::new(cli.common.quiet, stop);
    let command = cli.command.name();
    let mut answer = run(&cli, &progress).unwrap_or_else(Answer::from);
    if answer.target.is_none() {
        answer.target = cli.command.target().map(|t| escape(&t.to_string_lossy()));
    }
    if let Some(dir) = &cli.common.state_dir {
        name_state_dir(&mut answer, dir);
    }
    progress.clear();
    let phases = progress.ended();
    if !phases.is_empty() {
        answer = answer.with("phases", &phases);
    }
    print(&answer, command, cli.common.json)
}

fn with_exit_codes(command: clap::Command) -> clap::Command {
    command
        .after_help("Exit codes tell the state of the target: `holdfast --help` lists them.")
        .mut_subcommands(with_exit_codes)
}

/// Whoever chose a state directory needs it again in each command that he is told to type.
fn name_state_dir(answer: &mut Answer, dir: &Path) {
    let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.into());
    let dir = shell_word(&dir);
    let name = |text: &mut String| {
        if text.contains("--state-dir") {
            return;
        }
        for command in ["apply", "status", "recover", "rollback", "prune", "abandon"] {
            let (from, to) = (
                format!("holdfast {command}"),
                format!("holdfast --state-dir {dir} {command}"),
            );
            *text = text.replace(&from, &to);
        }
    };
    name(&mut answer.text);
    answer
        .refusals
        .iter_mut()
        .for_each(|refusal| name(&mut refusal.hint));
}

fn print(answer: &Answer, command: &str, json: bool) -> ExitCode {
    let text = if json {
        let document = answer.document(command);
        harmless_json(&serde_json::to_string_pretty(&document).unwrap_or_default())
    } else {
        answer.for_people()
    };
    // What a survey found is its result, also where it is a refusal.
    let survey = answer.outcome == Outcome::Refused && !answer.text.is_empty();
    let bad = !survey
        && !matches!(
            answer.outcome,
            Outcome::Done | Outcome::NoChange | Outcome::Differs
        );
    // A result that nobody can read any more changes nothing about what was done.
    let _ = match json || !bad {
        true => io::stdout()
            .lock()
            .write_all(text.as_bytes())
            .and_then(|()| io::stdout().flush()),
        false => io::stderr().lock().write_all(text.as_bytes()),
    };
    ExitCode::from(answer.outcome.exit_code())
}

/// The document in a line of its own, with the control characters that JSON allows escaped too: it
/// may well be read on a terminal.
pub(super) fn harmless_json(document: &str) -> String {
    let mut out = String::with_capacity(document.len() + 1);
    for c in document.chars() {
        let mut units = [0; 2];
        match c {
            '\n' | '\\' => out.push(c),
            c if escape(c.encode_utf8(&mut [0; 4])).starts_with('\\') => {
                for unit in c.encode_utf16(&mut units) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
            c => out.push(c),
        }
    }
    out.push('\n');
    out
}

/// Help and version are results; anything else typed wrongly is a usage error, also in JSON.
fn usage(e: &clap::Error) -> ExitCode {
    if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        let _ = e.print();
        return ExitCode::SUCCESS;
    }
    let json = std::env::args_os().any(|a| a == "--json");
    if !json {
        let _ = e.print();
        return ExitCode::from(Outcome::Usage.exit_code());
    }
    let what = e.to_string();
    let command = typed_command(std::env::args_os().skip(1));
    let answer = Answer {
        error: Some(what.clone()),
        ..Answer::new(Outcome::Usage, what)
    };
    print(&answer, &command, true)
}

/// The command of a line that could not be parsed: as far as it names one.
fn typed_command(words: impl Iterator<Item = std::ffi::OsString>) -> String {
    let (mut at, mut names) = (Cli::command(), Vec::new());
    for word in words {
        if let Some(next) = at.find_subcommand(&word).cloned() {
            names.push(next.get_name().to_string());
            at = next;
        }
    }
    names.join(" ")
}

/// Before the commit point a signal asks to stop; after it nobody listens. Either way it does not
/// kill: what is under way ends in a known state. A stop from the terminal is not heard at all.
fn hear_signals(stop: &Arc<AtomicBool>) {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP};
    for signal in [SIGINT, SIGTERM, SIGHUP, SIGQUIT] {
        let _ = signal_hook::flag::register(signal, stop.clone());
    }
    let _ = signal_hook::flag::register(SIGTSTP, Arc::new(AtomicBool::new(false)));
}

fn state_dir(common: &Common) -> PathBuf {
    if let Some(dir) = &common.state_dir {
        return std::path::absolute(dir).unwrap_or_else(|_| dir.clone());
    }
    if nix::unistd::geteuid().is_root() {
        return "/var/lib/holdfast".into();
    }
    let home = || std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".local/state"));
    let base = std::env::var_os("XDG_STATE_HOME")
        .map(PathBuf::from)
        .filter(|p| p.is_absolute());
    base.or_else(home)
        .unwrap_or_else(|| ".".into())
        .join("holdfast")
}

fn asked(args: &TargetArgs) -> Asked {
    Asked {
        target: args.target.clone(),
        partition: args.partition,
        sector_bytes: args.sector_size.as_ref().and_then(|s| s.parse().ok()),
    }
}

fn how(export: ExportArg) -> How {
    match export {
        ExportArg::Auto => How::Auto,
        ExportArg::Fuse => How::Fuse,
        ExportArg::Copy => How::Copy,
    }
}

fn run(cli: &Cli, report: &Progress) -> Result<Answer, Stop> {
    let store = Store::at(&state_dir(&cli.common));
    let with = |export| Options {
        store: &store,
        how: how(export),
        patience: Duration::from_secs(cli.common.patience),
        report,
    };
    match &cli.command {
        Command::Check(args) => run_check(args, &with(ExportArg::Auto)),
        Command::Plan(PlanCommand::Grow(args)) => {
            run_plan(args, Direction::Grow, &with(args.change.export))
        }
        Command::Plan(PlanCommand::Shrink(args)) => {
            run_plan(args, Direction::Shrink, &with(args.change.export))
        }
        Command::Grow { change, yes } => {
            run_change(change, Direction::Grow, *yes, &with(change.export), report)
        }
        Command::Shrink { change, yes } => run_change(
            change,
            Direction::Shrink,
            *yes,
            &with(change.export),
            report,
        ),
        Command::Apply { plan, yes, export } => run_apply(plan, *yes, &with(*export), report),
        Command::Snapshot {
            target,
            output,
            files,
        } => match files.tree {
            true => super::files::snapshot_tree(&target.target, output, report),
            false => run_snapshot(target, output, files.files, report),
        },
        Command::Verify {
            target,
            manifest,
            files,
        } => match files.tree {
            true => super::files::verify_tree(&target.target, manifest, report),
            false => run_verify(target, manifest, files.files, report),
        },
        Command::Status => run_status(&store),
        Command::Recover {
            what,
            forward,
            verify,
        } => {
            let way = Way {
                toward: if *forward { Side::After } else { Side::Before },
                whole: *verify == RecoverVerifyArg::Used,
            };
            run_recover(&store, what.as_deref(), way, report)
        }
        Command::Rollback { id, target, yes } => {
            run_rollback(&store, id, target.as_deref(), *yes, report)
        }
        Command::Prune { ids, days } => run_prune(&store, ids, *days),
        Command::Abandon { id, confirm } => run_abandon(&store, id, confirm.as_deref(), report),
        Command::Blame(args) => super::blame::run(args),
        Command::Mail(command) => super::mail::run(command, report),
    }
}

fn request(args: &ChangeArgs, direction: Direction) -> Result<Request, Box<Answer>> {
    let to = match (args.to, direction) {
        (Some(to), _) => to,
        (None, Direction::Grow) => To::Max,
        (None, Direction::Shrink) => {
            let text = "shrink needs --to SIZE, --to -SIZE or --to min\n";
            let answer = Answer::new(Outcome::Usage, text);
            return Err(Box::new(Answer {
                error: Some(text.trim().into()),
                ..answer
            }));
        }
    };
    let disk_bytes = args.disk_size.map(|b| b.0);
    Ok(Request {
        direction,
        to,
        disk_bytes,
        level: args.verify.into(),
    })
}

fn run_check(args: &TargetArgs, options: &Options<'_>) -> Result<Answer, Stop> {
    let asked = asked(args);
    let shown = escape(&args.target.to_string_lossy());
    let (look, found) = check(&asked, options)?;
    let text = render::look(&look);
    let mut answer = match found.is_empty() {
        true => Answer::new(
            Outcome::Done,
            format!("{text}\nnothing is wrong with it, or in the way of a change\n"),
        ),
        false => Answer {
            text,
            ..Answer::from(Stop::Refused(found))
        },
    };
    if let Some(volume) = &look.file_system {
        answer = answer.with("file_system", &volume.observed);
    }
    Ok(answer
        .on(shown)
        .with("identity", look.identity())
        .with("notices", &look.notices))
}

fn no_change(planned: &Planned, why: &str) -> Answer {
    Answer::new(Outcome::NoChange, format!("no change: {why}\n"))
        .on(planned.look.shown.clone())
        .with("reason", why)
}

fn run_plan(args: &PlanArgs, direction: Direction, options: &Options<'_>) -> Result<Answer, Stop> {
    let request = match request(&args.change, direction) {
        Ok(request) => request,
        Err(answer) => return Ok(*answer),
    };
    let asked = asked(&args.change.target);
    let shown = escape(&asked.target.to_string_lossy());
    let planned = make_plan(&asked, &request, options);
    let planned = match planned {
        Ok(planned) => planned,
        Err(stop) => return Ok(Answer::from(stop).on(shown)),
    };
    let mut plan = match &planned.verdict {
        Verdict::NoChange(why) => return Ok(no_change(&planned, why)),
        Verdict::Refused(refusals) => {
            return Ok(Answer::from(Stop::Refused(refusals.clone())).on(shown));
        }
        Verdict::Plan(plan) => (**plan).clone(),
    };
    let mut verdict = "it can be done; nothing has been written";
    if args.rehearse {
        drop(planned);
        match change::rehearse(&asked, &plan, options) {
            Ok(measured) => plan = measured,
            Err(stop) => return Ok(Answer::from(stop).on(shown)),
        }
        verdict = "rehearsed and checked: it can be done; nothing has been written";
    }
    let mut text = format!("{}\n{verdict}\n", render::plan(&plan));
    if let Some(file) = &args.output {
        save(&plan, file)?;
        text.push_str(&format!(
            "carry it out with: holdfast apply {}\n",
            shell_word(file)
        ));
    }
    Ok(Answer::new(Outcome::Done, text)
        .on(shown)
        .with("plan", &plan))
}

fn save(plan: &Plan, file: &Path) -> Result<(), Stop> {
    let write = || -> anyhow::Result<()> {
        let parent = file
            .parent()
            .filter(|p| !p.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        let mut temporary = tempfile::NamedTempFile::new_in(parent)?;
        serde_json::to_writer_pretty(&mut temporary, plan)?;
        temporary.persist(file)?;
        Ok(())
    };
    Ok(write().with_context(|| format!("writing the plan to {}", file.display()))?)
}

fn load(file: &Path) -> Result<Plan, Stop> {
    const MAX_BYTES: u64 = 4 << 20;
    let meta =
        std::fs::metadata(file).with_context(|| format!("reading the plan {}", file.display()))?;
    let owner = std::os::unix::fs::MetadataExt::uid(&meta);
    let me = nix::unistd::geteuid();
    if me.is_root() && owner != 0 {
        return Err(Stop::refused(
            "plan-owner",
            format!(
                "the plan {} belongs to uid {owner}, and root carries out its own plans only",
                file.display()
            ),
            "make the plan as root, or look at it and change its owner",
        ));
    }
    let damaged = |what: String| {
        Stop::refused(
            "bad-plan",
            format!("{} is not a plan: {what}", file.display()),
            "make a new plan",
        )
    };
    if meta.len() > MAX_BYTES {
        return Err(damaged("it is too large".into()));
    }
    let text =
        std::fs::read(file).with_context(|| format!("reading the plan {}", file.display()))?;
    let plan: Plan = serde_json::from_slice(&text).map_err(|e| damaged(e.to_string()))?;
    if plan.schema != SCHEMA {
        return Err(damaged(format!(
            "its schema is {}, not {SCHEMA}",
            escape(&plan.schema)
        )));
    }
    Ok(plan)
}

fn run_change(
    args: &ChangeArgs,
    direction: Direction,
    yes: bool,
    options: &Options<'_>,
    progress: &Progress,
) -> Result<Answer, Stop> {
    let request = match request(args, direction) {
        Ok(request) => request,
        Err(answer) => return Ok(*answer),
    };
    let asked = asked(&args.target);
    let shown = escape(&asked.target.to_string_lossy());
    let planned = match make_plan(&asked, &request, options) {
        Ok(planned) => planned,
        Err(stop) => return Ok(Answer::from(stop).on(shown)),
    };
    let plan = match &planned.verdict {
        Verdict::NoChange(why) => return Ok(no_change(&planned, why)),
        Verdict::Refused(refusals) => {
            return Ok(Answer::from(Stop::Refused(refusals.clone())).on(shown));
        }
        Verdict::Plan(plan) => (**plan).clone(),
    };
    drop(planned);
    execute(&asked, &plan, yes, options, progress)
}

fn run_apply(
    file: &Path,
    yes: bool,
    options: &Options<'_>,
    progress: &Progress,
) -> Result<Answer, Stop> {
    let plan = load(file)?;
    let asked = Asked {
        target: PathBuf::from(&plan.identity.path),
        partition: plan.partition_number,
        sector_bytes: match plan.identity.kind {
            crate::plan::TargetKind::Image => Some(plan.sector_bytes as u32),
            crate::plan::TargetKind::Device => None,
        },
    };
    execute(&asked, &plan, yes, options, progress)
}

fn execute(
    asked: &Asked,
    plan: &Plan,
    yes: bool,
    options: &Options<'_>,
    progress: &Progress,
) -> Result<Answer, Stop> {
    let shown = escape(&asked.target.to_string_lossy());
    if !yes && let Some(answer) = ask(&render::plan(plan), progress)? {
        return Ok(answer.on(shown).with("plan", plan));
    }
    match carry_out(asked, plan, options) {
        Ok(done) => {
            let outcome = outcome_of(&done.ending);
            Ok(Answer::new(outcome, render::done(&done))
                .of(done.id)
                .on(shown)
                .with("result", &done))
        }
        Err(stop) => Ok(Answer::from(stop).on(shown)),
    }
}

/// Shows `what` and asks. `Some`: the answer was no, or there was nobody to ask.
fn ask(what: &str, progress: &Progress) -> Result<Option<Answer>, Stop> {
    progress.clear();
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        let text = "there is no terminal to ask on, and nothing was touched: say --yes to do it without \
                    asking\n";
        return Ok(Some(Answer {
            error: Some(text.trim().into()),
            ..Answer::new(Outcome::Usage, text)
        }));
    }
    let line = read_answer(&format!("{what}\nType yes to carry it out: "), progress)?;
    if line == "yes" {
        return Ok(None);
    }
    Ok(Some(Answer::new(
        Outcome::Interrupted,
        "not confirmed; nothing was touched\n",
    )))
}

/// A line from the terminal. A signal ends the wait: a plain read would go on after it.
fn read_answer(question: &str, progress: &Progress) -> Result<String, Stop> {
    let mut err = io::stderr();
    let _ = write!(err, "{}", tame(question));
    let _ = err.flush();
    let stdin = io::stdin();
    loop {
        checkpoint(progress)?;
        let mut ready = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, PollTimeout::from(200u8)) {
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => break,
            Err(e) => {
                return Err(anyhow::Error::from(e)
                    .context("waiting for the answer")
                    .into());
            }
        }
    }
    let mut line = String::new();
    stdin
        .lock()
        .read_line(&mut line)
        .context("reading the answer")?;
    Ok(line.trim().to_string())
}

fn run_snapshot(
    args: &TargetArgs,
    output: &Path,
    files: bool,
    report: &Progress,
) -> Result<Answer, Stop> {
    let look = Look::at(&asked(args))?;
    let taken = manifest::take(&look, output, report)?;
    let text = render::taken(&look.shown, output, &taken);
    let answer = Answer::new(Outcome::Done, text)
        .on(look.shown.clone())
        .with("snapshot", &taken);
    match files {
        true => super::files::and_list(answer, &look, output, report),
        false => Ok(answer),
    }
}

fn run_verify(
    args: &TargetArgs,
    file: &Path,
    files: bool,
    report: &Progress,
) -> Result<Answer, Stop> {
    let look = Look::at(&asked(args))?;
    let found = manifest::verify(&look, file, report)?;
    let outcome = if found.extents.is_empty() {
        Outcome::Done
    } else {
        Outcome::Differs
    };
    let answer = Answer::new(outcome, render::compared(&found))
        .on(look.shown.clone())
        .with("comparison", &found);
    match files {
        true => super::files::and_compare(answer, &look, file, report),
        false => Ok(answer),
    }
}

fn run_status(store: &Store) -> Result<Answer, Stop> {
    let entries = store.list()?;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs());
    Ok(Answer::new(Outcome::Done, render::status(&entries, now)).with("transactions", &entries))
}

fn run_recover(
    store: &Store,
    what: Option<&str>,
    way: Way,
    report: &Progress,
) -> Result<Answer, Stop> {
    let done = undo::recover(store, what, way, report)?;
    let outcome = if done.is_empty() {
        Outcome::NoChange
    } else {
        Outcome::Done
    };
    Ok(undone(outcome, &done))
}

fn undone(outcome: Outcome, done: &[Undone]) -> Answer {
    let answer = Answer::new(outcome, render::undone(done)).with("recovered", done);
    match done.first() {
        Some(one) => answer.of(one.id).on(escape(&one.target.to_string_lossy())),
        None => answer,
    }
}

fn run_rollback(
    store: &Store,
    id: &str,
    target: Option<&Path>,
    yes: bool,
    report: &Progress,
) -> Result<Answer, Stop> {
    let entry = store.find(id)?;
    let what = render::status(
        std::slice::from_ref(&entry),
        entry.summary.as_ref().map_or(0, |s| s.began),
    );
    if !yes
        && let Some(answer) = ask(
            &format!("{what}\nThis transaction is to be undone."),
            report,
        )?
    {
        return Ok(answer.of(entry.id));
    }
    let done = undo::roll_back(store, id, target, report)?;
    Ok(undone(Outcome::Done, &[done]))
}

fn run_prune(store: &Store, ids: &[String], days: u64) -> Result<Answer, Stop> {
    let removed = undo::prune(store, ids, days)?;
    let outcome = if removed.is_empty() {
        Outcome::NoChange
    } else {
        Outcome::Done
    };
    let text = match removed.len() {
        0 => "nothing to remove\n".to_string(),
        n => format!("{n} removed\n"),
    };
    Ok(Answer::new(outcome, text).with(
        "removed",
        removed.iter().map(|id| id.to_string()).collect::<Vec<_>>(),
    ))
}

fn run_abandon(
    store: &Store,
    id: &str,
    confirm: Option<&str>,
    progress: &Progress,
) -> Result<Answer, Stop> {
    let entry = store.find(id)?;
    let whole = entry.id.to_string();
    let typed = match confirm {
        Some(typed) => typed.to_string(),
        None if io::stdin().is_terminal() => {
            progress.clear();
            let question = format!(
                "After this there is no way back to what was before transaction {whole}, and the gate stays \
                 closed if it stands.\nType its whole id to give it up: "
            );
            read_answer(&question, progress)?
        }
        None => String::new(),
    };
    if typed != whole {
        let refusal = Refusal::new(
            "not-confirmed",
            "the id that was typed is not that of the transaction",
            format!("to give it up without a terminal: --confirm {whole}"),
        );
        return Ok(Answer::from(Stop::Refused(vec![refusal])).of(entry.id));
    }
    undo::abandon(store, entry.id)?;
    Ok(Answer::new(Outcome::Done, format!("{whole} is given up\n")).of(entry.id))
}
