//! Where extracted bytes go: one file, a directory with a file for each, or standard output. A file appears whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::ExtractError;
use crate::CommandError;
use crate::arguments::ExtractArguments;

/// Takes what was found.
pub(super) struct Sink<'a, W> {
    target: Target<'a, W>,
    force: bool,
    payloads: u64,
    bytes: u64,
}

enum Target<'a, W> {
    Output(&'a mut W),
    Dir(PathBuf),
    /// Written beside its name first.
    File {
        path: PathBuf,
        part: PathBuf,
        file: Option<BufWriter<File>>,
    },
}

impl<'a, W: Write> Sink<'a, W> {
    /// Prepares the target; nothing is created before there is something to write.
    pub(super) fn new(
        arguments: &ExtractArguments,
        out: &'a mut W,
    ) -> Result<Sink<'a, W>, CommandError> {
        let path = arguments.output.clone();
        let is_dir = path.is_dir() || path.as_os_str().as_encoded_bytes().ends_with(b"/");
        let target = match path.as_os_str() == "-" {
            true => Target::Output(out),
            false if is_dir => Target::Dir(path),
            false if path.exists() && !arguments.force => {
                return Err(ExtractError::Exists { path }.into());
            }
            false => {
                let mut part = path.clone().into_os_string();
                part.push(".part");
                Target::File { path, part: part.into(), file: None }
            }
        };
        Ok(Sink { target, force: arguments.force, payloads: 0, bytes: 0 })
    }

    /// Takes one payload: a file of its own, or the only one.
    pub(super) fn put_payload(&mut self, name: &str, payload: &[u8]) -> Result<(), CommandError> {
        self.payloads += 1;
        if self.payloads > 1 {
            match &self.target {
                Target::Dir(_) => {}
                Target::File { path, .. } => {
                    return Err(ExtractError::Several { path: path.clone() }.into());
                }
                Target::Output(_) => {
                    return Err(ExtractError::Several { path: "payloads".into() }.into());
                }
            }
        }
        self.put(&format!("{name}.payload"), payload)
    }

    /// Takes bytes that may follow others.
    pub(super) fn put(&mut self, name: &str, bytes: &[u8]) -> Result<(), CommandError> {
        self.bytes += bytes.len() as u64;
        match &mut self.target {
            Target::Output(out) => out.write_all(bytes)?,
            Target::Dir(dir) => {
                let path = dir.join(name);
                if path.exists() && !self.force {
                    return Err(ExtractError::Exists { path }.into());
                }
                fs::create_dir_all(&*dir).map_err(|source| failed(dir, source))?;
                let written = File::create(&path).and_then(|mut file| {
                    file.write_all(bytes)?;
                    file.sync_all()
                });
                written.map_err(|source| failed(&path, source))?;
            }
            Target::File { part, file, .. } => {
                if file.is_none() {
                    let created =
                        OpenOptions::new().write(true).create(true).truncate(true).open(&*part);
                    let created = created.map_err(|source| failed(part, source))?;
                    *file = Some(BufWriter::new(created));
                }
                if let Some(file) = file {
                    file.write_all(bytes).map_err(|source| failed(part, source))?;
                }
            }
        }
        Ok(())
    }

    /// Gives the file its name, and returns where everything is and how much; `None` where nothing was to be named.
    pub(super) fn finish(mut self, count: u64) -> Result<Option<(String, u64)>, CommandError> {
        let bytes = self.bytes;
        match &mut self.target {
            Target::Output(_) => Ok(None),
            Target::Dir(dir) => Ok((count > 0).then(|| (dir.display().to_string(), bytes))),
            Target::File { path, part, file } => {
                let Some(file) = file.take() else { return Ok(None) };
                let named =
                    file.into_inner().map_err(io::IntoInnerError::into_error).and_then(|file| {
                        file.sync_all()?;
                        fs::rename(&*part, &*path)
                    });
                named.map_err(|source| failed(path, source))?;
                Ok(Some((path.display().to_string(), bytes)))
            }
        }
    }
}

impl<W> Drop for Sink<'_, W> {
    /// What was begun and not finished is nobody's.
    fn drop(&mut self) {
        if let Target::File { part, file: Some(_), .. } = &self.target {
            // Whether it goes or stays, its name says that it is not whole.
            let _ = fs::remove_file(part);
        }
    }
}

fn failed(path: &Path, source: io::Error) -> CommandError {
    CommandError::Write { path: path.to_owned(), source }
}
