//! The operator's commands: their options, output and errors. `admin` implements them.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use landfall_protocol::error_chain;
use landfall_protocol::portable::PortableError;
use landfall_protocol::{DocumentId, SpaceName};

use super::identity::{TokenArgs, run_token};
use super::print::{self, Output, counted};
use super::{
    CompactionArgs, DAMAGED, FILE, Failure, GONE, IN_USE, LogFormat, OTHER, STORE, USAGE,
    store_failure,
};
use crate::admin::backup::backup;
use crate::admin::compact::{CompactOptions, compact};
use crate::admin::delete::delete;
use crate::admin::export::export;
use crate::admin::import::import;
use crate::admin::import_repo::import_repo;
use crate::admin::restore::{RestoreOptions, restore};
use crate::admin::verify::{repair, verify};
use crate::admin::{AdminError, must_have_store};
use crate::logs;
use crate::store::{BackupError, FailureClass, Inspection, StoreError};

/// The operator's commands.
#[derive(Debug, Subcommand)]
pub enum OperatorCommand {
    /// Show the contents of the store: spaces, documents, sizes. The relay may be running
    Inspect(InspectArgs),
    /// Check every change, snapshot and count of the store. The relay may be running
    Verify(VerifyArgs),
    /// Copy the store to a new file. The relay may be running, while clients write
    Backup(BackupArgs),
    /// Replace the store with a backup. The relay must be stopped
    Restore(RestoreArgs),
    /// Compact history and return free space to the disk. The relay must be stopped
    Compact(CompactArgs),
    /// Write a space to a portable file. The relay may be running
    Export(ExportArgs),
    /// Import a portable file. The relay must be stopped
    Import(ImportArgs),
    /// Delete documents permanently, on every client too. The relay must be stopped
    Delete(DeleteArgs),
    /// Import the data folder of an automerge-repo sync server. The relay must be stopped
    ImportRepo(ImportRepoArgs),
    /// Make a token for development, signed with the relay's secret. It needs no store
    Token(TokenArgs),
}

/// Options that all of them have.
#[derive(Debug, Args)]
pub struct Common {
    /// The folder that holds the store
    #[arg(long, env = "LANDFALL_DATA", default_value = "./landfall-data", value_name = "FOLDER")]
    data: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Options of `inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    #[command(flatten)]
    common: Common,
    /// Show this space with its documents
    #[arg(long, value_name = "NAME")]
    space: Option<SpaceName>,
    /// Show this document with its heads and actors
    #[arg(long, value_name = "ID", requires = "space")]
    document: Option<DocumentId>,
}

/// Options of `verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    common: Common,
    /// Report only findings in this space
    #[arg(long, value_name = "NAME")]
    space: Option<SpaceName>,
    /// Repair what can be repaired; clients send back lost changes. The relay must be stopped
    #[arg(long)]
    repair: bool,
    #[command(flatten)]
    compaction: CompactionArgs,
}

/// Options of `backup`.
#[derive(Debug, Args)]
pub struct BackupArgs {
    #[command(flatten)]
    common: Common,
    /// The new file; an existing one is never overwritten
    file: PathBuf,
}

/// Options of `restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    #[command(flatten)]
    common: Common,
    /// The backup; it is not changed
    file: PathBuf,
    /// Replace the existing store; it is kept beside the new one
    #[arg(long)]
    replace: bool,
    /// Restore the backup even if it is damaged
    #[arg(long)]
    unchecked: bool,
}

/// Options of `compact`.
#[derive(Debug, Args)]
pub struct CompactArgs {
    #[command(flatten)]
    common: Common,
    /// Compact only this space
    #[arg(long, value_name = "NAME")]
    space: Option<SpaceName>,
    /// Compact only this document
    #[arg(long, value_name = "ID", requires = "space")]
    document: Option<DocumentId>,
    /// Compact everything, not only what is due, and the youngest changes too
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    compaction: CompactionArgs,
}

/// Options of `export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    #[command(flatten)]
    common: Common,
    /// The space
    space: SpaceName,
    /// The new file; an existing one is never overwritten
    file: PathBuf,
}

/// Options of `import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    #[command(flatten)]
    common: Common,
    /// The portable file
    file: PathBuf,
    /// Import into this space instead of the one that the file names
    #[arg(long, value_name = "NAME")]
    space: Option<SpaceName>,
    #[command(flatten)]
    compaction: CompactionArgs,
}

/// Options of `delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    #[command(flatten)]
    common: Common,
    /// The space
    space: SpaceName,
    /// The documents
    #[arg(value_name = "ID")]
    documents: Vec<DocumentId>,
    /// All documents of the space
    #[arg(long, conflicts_with = "documents")]
    all: bool,
}

/// Options of `import-repo`.
#[derive(Debug, Args)]
pub struct ImportRepoArgs {
    #[command(flatten)]
    common: Common,
    /// The folder that the sync server's file storage writes to
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Import into this space
    #[arg(long, value_name = "NAME", default_value = "default")]
    space: SpaceName,
    #[command(flatten)]
    compaction: CompactionArgs,
}

/// Runs an operator's command.
pub fn admin(command: OperatorCommand) -> ExitCode {
    let logging = logs::start(LogFormat::Auto);
    let done = match command {
        OperatorCommand::Inspect(args) => run_inspect(args),
        OperatorCommand::Verify(args) => run_verify(args),
        OperatorCommand::Backup(args) => run_backup(args),
        OperatorCommand::Restore(args) => run_restore(args),
        OperatorCommand::Compact(args) => run_compact(args),
        OperatorCommand::Export(args) => run_export(args),
        OperatorCommand::Import(args) => run_import(args),
        OperatorCommand::Delete(args) => run_delete(args),
        OperatorCommand::ImportRepo(args) => run_import_repo(args),
        OperatorCommand::Token(args) => run_token(args),
    };
    // Drop the log writer first, so that the error is the last line.
    drop(logging);
    let done = done.and_then(|()| match print::missing() {
        None => Ok(()),
        Some(why) => {
            let remedy = "the command's work is done; run `inspect` to see the result";
            Err(Failure::new(FILE, "the output could not be written", why, remedy))
        }
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.tell(),
    }
}

fn run_inspect(args: InspectArgs) -> Result<(), Failure> {
    let InspectArgs { common, space, document } = args;
    let out = Output::new(common.json);
    let failed = |error| failure(AdminError::from(error), &common.data);
    must_have_store(&common.data).map_err(|error| failure(error, &common.data))?;
    let inspection =
        Inspection::open(&common.data).map_err(|error| failure(error.into(), &common.data))?;
    let store = inspection.store().map_err(failed)?;
    let Some(space) = space else {
        out.store(&store);
        return Ok(());
    };
    let found = store.spaces.iter().find(|report| report.space == space);
    let missing = || failure(AdminError::NoSpace(space.clone()), &common.data);
    let found = found.ok_or_else(missing)?;
    let Some(document) = document else {
        return out
            .space(found, |after| inspection.documents(&space, after, print::PAGE))
            .map_err(failed);
    };
    let report = inspection.document(&space, &document).map_err(failed)?;
    let missing = || failure(AdminError::NoDocument(space.clone(), document), &common.data);
    let report = report.ok_or_else(missing)?;
    let actors = inspection.actors(&space, &document).map_err(failed)?;
    out.document(&report, &actors);
    Ok(())
}

fn run_verify(args: VerifyArgs) -> Result<(), Failure> {
    let VerifyArgs { common, space, repair: is_repair, compaction } = args;
    let out = Output::new(common.json);
    let failed = |error| failure(error, &common.data);
    if !is_repair {
        let found = verify(&common.data, space.as_ref()).map_err(failed)?;
        out.found(&found);
        let of_file = found.findings.iter().any(|finding| finding.damage.is_of_file());
        let hint = match of_file {
            true => FILE_DAMAGED,
            false => "stop the relay, make a backup, and run `verify --repair`",
        };
        return clean(found.damage, hint);
    }
    let repaired = repair(&common.data, space.as_ref(), compaction.options()).map_err(failed)?;
    out.repaired(&repaired);
    clean(repaired.after.damage, FILE_DAMAGED)
}

/// The remedy for a damaged file structure.
const FILE_DAMAGED: &str = "stop the relay and restore a backup (`restore --replace`), or without \
    one start with an empty data folder: clients send back what they have";

fn clean(damage: u64, hint: &str) -> Result<(), Failure> {
    if damage == 0 {
        return Ok(());
    }
    let what = format!("the store is damaged in {}", counted(damage, "place"));
    Err(Failure::new(DAMAGED, what, "see the list", hint))
}

fn run_backup(args: BackupArgs) -> Result<(), Failure> {
    let BackupArgs { common, file } = args;
    let bytes = backup(&common.data, &file).map_err(|error| failure(error, &common.data))?;
    Output::new(common.json).backup(&file, bytes);
    Ok(())
}

fn run_restore(args: RestoreArgs) -> Result<(), Failure> {
    let RestoreArgs { common, file, replace, unchecked } = args;
    let restored = restore(&common.data, &file, RestoreOptions { replace, unchecked })
        .map_err(|error| failure(error, &common.data))?;
    Output::new(common.json).restored(&file, &restored);
    Ok(())
}

fn run_compact(args: CompactArgs) -> Result<(), Failure> {
    let CompactArgs { common, space, document, all, compaction } = args;
    let options = CompactOptions { space, document, all };
    let compacted = compact(&common.data, &options, compaction.options())
        .map_err(|error| failure(error, &common.data))?;
    Output::new(common.json).compacted(&compacted);
    Ok(())
}

fn run_export(args: ExportArgs) -> Result<(), Failure> {
    let ExportArgs { common, space, file } = args;
    let exported =
        export(&common.data, &space, &file).map_err(|error| failure(error, &common.data))?;
    Output::new(common.json).exported(&space, &file, &exported);
    Ok(())
}

fn run_import(args: ImportArgs) -> Result<(), Failure> {
    let ImportArgs { common, file, space, compaction } = args;
    let imported = import(&common.data, &file, space, compaction.options())
        .map_err(|error| failure(error, &common.data))?;
    Output::new(common.json).imported(&imported);
    let written = &imported.written;
    let Some((document, why)) = written.refusals.first() else { return Ok(()) };
    let what = format!("{} of the file's entries were rejected", written.refused);
    let hint = "everything else was imported; see the list";
    Err(Failure::new(OTHER, what, format!("document {document}: {why}"), hint))
}

fn run_delete(args: DeleteArgs) -> Result<(), Failure> {
    let DeleteArgs { common, space, documents, all } = args;
    if documents.is_empty() && !all {
        let why = "no document is named";
        let remedy = "give document ids, or --all for every document of the space";
        return Err(Failure::new(USAGE, "nothing was deleted", why, remedy));
    }
    let deleted =
        delete(&common.data, &space, documents).map_err(|error| failure(error, &common.data))?;
    Output::new(common.json).deleted(&space, &deleted);
    Ok(())
}

fn run_import_repo(args: ImportRepoArgs) -> Result<(), Failure> {
    let ImportRepoArgs { common, folder, space, compaction } = args;
    let imported = import_repo(&common.data, &folder, space, compaction.options())
        .map_err(|error| failure(error, &common.data))?;
    Output::new(common.json).repo_imported(&imported);
    let (problems, written) = (&imported.problems, &imported.written);
    let why = match (problems.first.first(), written.refusals.first()) {
        (Some((path, why)), _) => format!("{}: {why}", path.display()),
        (None, Some((document, why))) => format!("document {document}: {why}"),
        (None, None) => return Ok(()),
    };
    let what = format!("not imported: {}", counted(problems.count + written.refused, "place"));
    let hint = "everything else was imported; see the list";
    Err(Failure::new(OTHER, what, why, hint))
}

/// Maps an error to a line and an exit code.
pub(super) fn failure(error: AdminError, data: &Path) -> Failure {
    let why = error.to_string();
    let cause = std::error::Error::source(&error).map(error_chain);
    let failed = |code, hint| match &cause {
        Some(cause) => Failure::new(code, &why, cause, hint),
        None => Failure::new(code, "the command failed", &why, hint),
    };
    match &error {
        AdminError::Open(error) => store_failure(error),
        AdminError::Store(error) => of_store(error),
        AdminError::NoStore(_) => failed(STORE, "name the relay's folder with --data"),
        AdminError::NoSpace(_) | AdminError::NoDocument(..) => {
            failed(USAGE, "see `landfall-relay inspect`")
        }
        AdminError::Backup(BackupError::Source(_)) => {
            let why = cause.as_deref().unwrap_or_default();
            let what = format!("there is no store to copy in {}", data.display());
            Failure::new(STORE, what, why, "name the relay's folder with --data")
        }
        AdminError::Backup(BackupError::Exists { .. }) => {
            failed(FILE, "choose another name; a backup never overwrites")
        }
        AdminError::Backup(error) => match error.class() {
            FailureClass::Corrupt => failed(DAMAGED, "run `landfall-relay verify`"),
            FailureClass::DiskFull => failed(FILE, "make room on the disk"),
            FailureClass::Busy => failed(FILE, "wait until the other backup is done"),
            _ => failed(FILE, "check that the target's folder exists and is writable"),
        },
        AdminError::BadBackup(BackupError::Exists { .. } | BackupError::Busy { .. }) => {
            failed(IN_USE, "wait until the other command is done")
        }
        AdminError::BadBackup(_) => failed(FILE, "choose another backup; nothing was changed"),
        AdminError::DamagedBackup { .. } => failed(
            DAMAGED,
            "nothing was changed; choose another backup, or restore it with --unchecked and repair",
        ),
        AdminError::HasStore(_) => {
            failed(FILE, "use --replace to replace it; the old store is kept beside the new one")
        }
        AdminError::Read(..) => failed(FILE, "check that it exists and is readable"),
        AdminError::NoRepo(_) => {
            failed(FILE, "name the folder that the server's storage adapter writes to")
        }
        AdminError::Write(..) | AdminError::NewFile(_) => {
            failed(FILE, "choose another name, and check that the disk has room")
        }
        AdminError::Portable(_, PortableError::NotPortable | PortableError::Version { .. }) => {
            failed(FILE, "nothing was changed; name a file that `export` wrote")
        }
        AdminError::Portable(..) => failed(DAMAGED, "nothing was changed; export the space again"),
        AdminError::Unsound(_) => failed(DAMAGED, "run `landfall-relay verify`"),
        AdminError::Rewrite(_) => failed(STORE, "make room on the disk and run the command again"),
        AdminError::NoWorker | AdminError::Randomness(_) => failed(OTHER, "please report this"),
    }
}

fn of_store(error: &StoreError) -> Failure {
    let class = FailureClass::of_chain(error);
    let (code, hint) = match class {
        FailureClass::DiskFull => (STORE, "make room on the disk"),
        FailureClass::Corrupt => (DAMAGED, FILE_DAMAGED),
        FailureClass::Gone => (GONE, "put the store's files back, or restore a backup"),
        FailureClass::Busy => (IN_USE, "stop the other program that reads the store"),
        _ => (STORE, "check the disk and try again"),
    };
    let why = std::error::Error::source(error).map_or_else(String::new, error_chain);
    Failure::new(code, error, why, hint)
}
