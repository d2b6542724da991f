//! Goal: what is removed is what was meant, on the node that was meant. Method: real nodes, of which one has delegated a
//! prefix to the other and both have a record of it, and somebody who may remove either.

use std::path::Path;

use crate::{
    change::{init, serve, words},
    node::{Running, free_port},
    support::{Run, directory, run},
};

/// A node that has delegated 88.118.9, and the one that it was delegated to.
struct Two<'a> {
    directory: &'a Path,
    parent: Running,
    child: Running,
}

impl<'a> Two<'a> {
    /// The administrator of the child is that of its prefix's record at the parent as well.
    fn start(directory: &'a Path) -> Self {
        let (above, below) = (free_port(), free_port());
        init(directory, "parent", "88.118", above);
        init(directory, "child", "88.118.9", below);
        let two = Self {
            directory,
            parent: serve(directory, "parent", above),
            child: serve(directory, "child", below),
        };
        two.delegate();
        two
    }

    fn delegate(&self) {
        let site = self.child.server();
        self.run(&format!(
            "prefix add 88.118.9 --site {site} --admin-key child/admin.key --data parent"
        ))
        .expect(0);
    }

    fn run(&self, command: &str) -> Run {
        let words = words(command);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        run(self.directory, &words)
    }

    /// Told of the parent alone.
    fn by_parent(&self, command: &str) -> Run {
        let who = "--identity 300:0.NA/88.118.9 --key child/admin.key";
        self.run(&format!(
            "{command} --server {} {who}",
            self.parent.server()
        ))
    }

    fn resolve(&self, handle: &str, node: &Running) -> Run {
        self.run(&format!("resolve {handle} --server {}", node.server()))
    }

    /// How many changes the child has made.
    fn changes_below(&self) -> u64 {
        let stats = self
            .run("store stats --data child -o json")
            .expect(0)
            .json();
        stats["sequence"].as_u64().expect("a number")
    }
}

#[test]
fn a_delegated_prefix_is_removed_where_it_was_delegated() {
    let directory = directory();
    let two = Two::start(directory.path());
    two.run("handle create 88.118.9/kept --value 1:URL=x --data child")
        .expect(0);
    let before = two.changes_below();
    for how in ["", "--force", "--session", "--force --encrypt"] {
        two.resolve("88.118.9/kept", &two.parent).expect(0);
        two.by_parent(&format!("prefix rm 88.118.9 {how}"))
            .expect(0);
        two.resolve("0.NA/88.118.9", &two.parent).expect(3);
        // Whoever was administrator by that record is none there any more.
        two.by_parent(&format!("prefix rm 88.118.9 {how}"))
            .expect(1);
        assert_eq!(
            two.changes_below(),
            before,
            "{how}: nothing is removed below"
        );
        two.resolve("0.NA/88.118.9", &two.child).expect(0);
        two.resolve("88.118.9/kept", &two.child).expect(0);
        two.delegate();
    }
    assert_eq!((two.parent.stop(), two.child.stop()), (0, 0));
}

/// Goal: where one handle was found says nothing about the next.
#[test]
fn each_handle_is_removed_at_its_own_home() {
    let directory = directory();
    let two = Two::start(directory.path());
    for how in ["", "--session"] {
        for handle in ["88.118.9/a", "88.118.9/b"] {
            two.by_parent(&format!("handle create {handle} --value 1:URL=x {how}"))
                .expect(0);
        }
        let before = two.changes_below();
        // The record of the prefix is held above, whatever was done below it a moment ago.
        two.by_parent(&format!(
            "handle rm 88.118.9/a 88.118.9/b 0.NA/88.118.9 {how}"
        ))
        .expect(0);
        assert_eq!(two.changes_below(), before + 2, "{how}");
        two.resolve("0.NA/88.118.9", &two.parent).expect(3);
        two.resolve("0.NA/88.118.9", &two.child).expect(0);
        two.resolve("88.118.9/a", &two.child).expect(3);
        two.delegate();
    }
    assert_eq!((two.parent.stop(), two.child.stop()), (0, 0));
}
