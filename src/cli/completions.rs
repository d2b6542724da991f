//! `jiexi completions`, `jiexi man`: made of the description of the command line, so that they never differ from it.

use std::path::{Path, PathBuf};

use clap::{Args, Command};
use clap_complete::Shell;

use super::{Failed, output};

/// Print the completions of a shell
///
/// bash: jiexi completions bash > /usr/share/bash-completion/completions/jiexi
/// zsh:  jiexi completions zsh > "${fpath[1]}/_jiexi"
/// fish: jiexi completions fish > ~/.config/fish/completions/jiexi.fish
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self, mut command: Command) -> Result<(), Failed> {
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut command, "jiexi", &mut text);
        output::print(&String::from_utf8_lossy(&text))
    }
}

/// Write the man pages: jiexi.1, and one for each command
#[derive(Debug, Args)]
pub(super) struct Man {
    /// The directory; it must exist
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

impl Man {
    pub(super) fn run(self, mut command: Command) -> Result<(), Failed> {
        command.build();
        write(&command, &self.directory)
    }
}

/// Writes the page of a command and those of the commands below it.
fn write(command: &Command, directory: &Path) -> Result<(), Failed> {
    let name = command.get_display_name().unwrap_or("jiexi").to_owned();
    let file = directory.join(format!("{name}.1"));
    let failed = |error| Failed::report(format_args!("{}: {error}", file.display()));
    let page = clap_mangen::Man::new(command.clone()).title(name);
    let mut text = Vec::new();
    page.render(&mut text).map_err(failed)?;
    std::fs::write(&file, text).map_err(failed)?;
    let below = command.get_subcommands();
    for command in below.filter(|command| command.get_name() != "help" && !command.is_hide_set()) {
        write(command, directory)?;
    }
    Ok(())
}
