//! `mqttctl users`: writes the users file that the broker reads. Passwords come from a prompt or standard input, never as an argument:
//! arguments are seen by everybody on the machine.

use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::Subcommand;

use super::CtlError;
use crate::auth::{Credential, Users, users};
use crate::model::Principal;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Adds a user, or a SCRAM verifier beside the password of one.
    Add(Named),
    /// Removes a user.
    Remove(Named),
    /// Replaces a user's password.
    Passwd(Named),
    /// Lists the users and the kinds of their credentials.
    List(Listed),
}

#[derive(Debug, clap::Args)]
struct Named {
    /// The user's name.
    user: String,
    /// The users file (authentication.users_file); made when there is none.
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// Writes a SCRAM-SHA-256 verifier instead of a password hash.
    #[arg(long)]
    scram: bool,
}

#[derive(Debug, clap::Args)]
struct Listed {
    /// The users file.
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
}

pub(super) fn run(arguments: &Arguments, output: &mut impl Write) -> Result<(), CtlError> {
    match &arguments.command {
        Command::List(Listed { file }) => {
            let users = parse(file, &read(file)?)?;
            for (name, user) in users.iter() {
                let kinds = user.password.iter().chain(&user.scram).map(|kind| format!("{kind:?}"));
                let kinds: Vec<String> = kinds.collect();
                writeln!(output, "{name}: {}", kinds.join(", ")).map_err(CtlError::Output)?;
            }
            Ok(())
        }
        Command::Add(named) => change(named, |users| {
            let user = users.get(&named.user);
            let has = |user: &users::User| match named.scram {
                true => user.scram.is_some(),
                false => user.password.is_some(),
            };
            match user.is_some_and(has) {
                true => Err("has that already: use 'mqttctl users passwd' to replace it"),
                false => Ok(true),
            }
        }),
        Command::Passwd(named) => change(named, |users| match users.get(&named.user) {
            Some(_) => Ok(true),
            None => Err("does not exist: use 'mqttctl users add'"),
        }),
        Command::Remove(named) => change(named, |users| match users.get(&named.user) {
            Some(_) => Ok(false),
            None => Err("does not exist"),
        }),
    }
}

/// Changes one user's lines; `decide` looks at the file as it is and says whether there is to be a new credential.
fn change(
    named: &Named,
    decide: impl Fn(&Users) -> Result<bool, &'static str>,
) -> Result<(), CtlError> {
    let user = &named.user;
    Principal::user(Bytes::copy_from_slice(user.as_bytes()))
        .map_err(|error| CtlError::Usage(error.to_string()))?;
    let text = if named.file.exists() { read(&named.file)? } else { String::new() };
    let users = parse(&named.file, &text)?;
    let has_new = decide(&users).map_err(|why| CtlError::Usage(format!("user '{user}' {why}")))?;
    let credential = if has_new { Some(make(&password(user)?, named.scram)?) } else { None };
    let text = edit(&text, user, credential.as_ref());
    parse(&named.file, &text)?;
    write(&named.file, &text)
}

/// Removes the lines that a change replaces and adds the new one; everything else stays as it is, comments too.
fn edit(text: &str, user: &str, credential: Option<&Credential>) -> String {
    let is_replaced = |line: &str| {
        let same_kind = |new: &Credential| {
            let old = line.trim().split_once(':').map_or("", |(_, old)| old);
            old.starts_with("SCRAM-") == new.as_scram().is_some()
        };
        users::name_of(line) == Some(user) && credential.is_none_or(same_kind)
    };
    let mut edited = String::new();
    for line in text.lines().filter(|line| !is_replaced(line)) {
        edited.push_str(line);
        edited.push('\n');
    }
    if let Some(credential) = credential {
        edited.push_str(&format!("{user}:{credential}\n"));
    }
    edited
}

fn make(password: &str, scram: bool) -> Result<Credential, CtlError> {
    let salt = uuid::Uuid::new_v4().into_bytes();
    let make = if scram { Credential::scram } else { Credential::argon2id };
    make(password.as_bytes(), salt).map_err(|error| CtlError::Usage(error.to_string()))
}

/// Asks twice at a terminal; takes the first line of standard input otherwise.
fn password(user: &str) -> Result<String, CtlError> {
    let failed =
        |error: std::io::Error| CtlError::Usage(format!("cannot read a password: {error}"));
    if !std::io::stdin().is_terminal() {
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).map_err(failed)?;
        return Ok(line.trim_end_matches(['\r', '\n']).to_owned());
    }
    let first = rpassword::prompt_password(format!("password of '{user}': ")).map_err(failed)?;
    let second = rpassword::prompt_password("again: ").map_err(failed)?;
    match first == second {
        true => Ok(first),
        false => Err(CtlError::Usage("the two passwords differ".to_owned())),
    }
}

fn read(file: &Path) -> Result<String, CtlError> {
    std::fs::read_to_string(file)
        .map_err(|error| CtlError::Usage(format!("cannot read {}: {error}", file.display())))
}

fn parse(file: &Path, text: &str) -> Result<Users, CtlError> {
    Users::parse(text)
        .map_err(|problems| CtlError::Usage(format!("{} is wrong:\n{problems}", file.display())))
}

/// Replaces the file at once, readable by its owner only: a broker that looks meanwhile sees the old one or the new one.
fn write(file: &Path, text: &str) -> Result<(), CtlError> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut name = file.as_os_str().to_owned();
    name.push(".new");
    let write = || {
        let mut options = std::fs::OpenOptions::new();
        let mut new = options.write(true).create(true).truncate(true).mode(0o600).open(&name)?;
        new.write_all(text.as_bytes())?;
        new.sync_all()?;
        std::fs::rename(&name, file)
    };
    write().map_err(|error| CtlError::Usage(format!("cannot write {}: {error}", file.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_users_lines_change_and_the_rest_stays() {
        let text = "# people\nalice:$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW\n\nalicia:x\n";
        let scram = Credential::scram(b"pencil", [1; 16]).unwrap();
        let hash = Credential::argon2id(b"secret", [1; 16]).unwrap();

        let both = edit(text, "alice", Some(&scram));
        let replaced = edit(&both, "alice", Some(&hash));
        let removed = edit(&replaced, "alice", None);

        assert_eq!(both, format!("{text}alice:{scram}\n"));
        assert_eq!(replaced, format!("# people\n\nalicia:x\nalice:{scram}\nalice:{hash}\n"));
        assert_eq!(removed, "# people\n\nalicia:x\n");
    }

    #[test]
    fn a_written_file_is_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("users");

        write(&file, "# nobody\n").unwrap();

        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(read(&file).unwrap(), "# nobody\n");
    }
}
