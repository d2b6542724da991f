//! Goal: exit codes 0 done, 1 failed, 2 wrong command line, 3 not found; and help that helps.

use crate::support::{directory, run};

#[test]
fn wrong_command_lines_end_with_2() {
    let directory = directory();
    for arguments in [
        &["frobnicate"][..],
        &[],
        &["resolve"],
        &["resolve", ""],
        &["resolve", "88.118/a", "--udp", "--tcp"],
        &["resolve", "88.118/a", "--index", "x"],
        &["init", "--prefix", "88.118"],
        &["init", "--prefix", "88/118", "--address", "127.0.0.1"],
        &[
            "init",
            "--prefix",
            "88.118",
            "--address",
            "10.0.0.1,10.0.0.2",
        ],
        &["init", "--prefix", "88.118", "--address", "0.0.0.0"],
        &["config", "check"],
        &["store", "restore", "snapshot"],
    ] {
        let run = run(directory.path(), arguments).expect(2);
        assert!(
            !run.stderr.is_empty() && run.stdout.is_empty(),
            "{arguments:?}"
        );
    }
}

#[test]
fn failures_end_with_1_and_one_clear_line() {
    let directory = directory();
    for (arguments, expected) in [
        (&["serve"][..], "jiexi: no configuration file found"),
        (
            &["serve", "--config", "missing.toml"],
            "jiexi: missing.toml: cannot read the configuration",
        ),
        (&["export", "--data", "missing"], "jiexi: missing/store"),
        (
            &["import", "missing.ndjson", "--data", "missing"],
            "jiexi: missing/store",
        ),
        (
            &["store", "stats", "--data", "missing"],
            "jiexi: missing/store",
        ),
        (
            &["resolve", "88.118/a", "--server", "127.0.0.1:1", "--tcp"],
            "jiexi: 127.0.0.1:1 (TCP)",
        ),
        (
            &["resolve", "88.118/a", "--server", "no such name", "--tcp"],
            "jiexi: --server no such name",
        ),
    ] {
        let run = run(directory.path(), arguments).expect(1);
        assert!(
            run.stderr.starts_with(expected),
            "{arguments:?}: {}",
            run.stderr
        );
        assert!(run.stdout.is_empty());
    }
    assert_eq!(
        std::fs::read_dir(directory.path()).expect("reads").count(),
        0,
        "nothing was made on the way"
    );
}

#[test]
fn help_names_commands_and_exit_codes() {
    let directory = directory();
    let help = run(directory.path(), &["--help"]).expect(0).stdout;
    for word in [
        "init",
        "serve",
        "resolve",
        "import",
        "export",
        "store",
        "decode",
        "config",
        "serve --demo",
        "3 not found",
    ] {
        assert!(help.contains(word), "{word}");
    }
    for command in [
        "init", "serve", "resolve", "import", "export", "store", "decode", "config",
    ] {
        let help = run(directory.path(), &[command, "--help"]).expect(0).stdout;
        assert!(help.contains("Usage: jiexi"), "{command}");
    }
    assert!(
        run(directory.path(), &["--version"])
            .expect(0)
            .stdout
            .starts_with("jiexi ")
    );
}
