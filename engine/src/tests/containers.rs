//! Two containers of one image: a store that was created in the image is opened in each of them, and
//! the kernel reports the same file on the same machine.

use std::path::Path;
use std::process::Command;

use super::closing::once;

/// The variable with the store of a process in a container.
const STORE: &str = "LANDFALL_TEST_IN_CONTAINER";

const ITSELF: &str =
    "tests::containers::two_containers_of_one_image_never_write_the_same_actor_and_sequence";

/// The shared memory of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Memory {
    /// Its own, and temporary files in its image.
    Own,
    /// That of its host, which is also used for a folder of the user's session.
    Shared,
}

/// The directories of a container: `lower` is its image, `upper` holds its writes.
struct Container<'a> {
    lower: &'a Path,
    upper: &'a Path,
    work: &'a Path,
    /// Where it is mounted: every container sees the same path.
    root: &'a Path,
}

impl Container<'_> {
    /// Opens the store in the container, edits it and closes it. Returns each (actor, sequence).
    fn run(&self, memory: Memory, session: &Path) -> Vec<String> {
        let Self { lower, upper, work, root } = self;
        for folder in [lower, upper, work, root] {
            std::fs::create_dir_all(folder).unwrap();
        }
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            lower.display(),
            upper.display(),
            work.display()
        );
        let own = match memory {
            Memory::Own => "mount -t tmpfs tmpfs /dev/shm &&",
            Memory::Shared => "",
        };
        let script = format!(
            "mount -t overlay overlay -o {options} \"$1\" && {own} exec \"$2\" --exact \"$3\" --nocapture"
        );
        let (itself, temporary) = (std::env::current_exe().unwrap(), root.join("tmp"));
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", script.as_str(), "sh"]).arg(root).arg(itself).arg(ITSELF);
        command.env(STORE, root.join("s")).env("TMPDIR", temporary).env_remove("XDG_RUNTIME_DIR");
        if memory == Memory::Shared {
            command.env("XDG_RUNTIME_DIR", session);
        }
        let ran = command.output().unwrap();
        let text = String::from_utf8_lossy(&ran.stdout);
        assert!(ran.status.success(), "{text} {}", String::from_utf8_lossy(&ran.stderr));
        // No file is left among the temporary files.
        let left = std::fs::read_dir(upper.join("tmp")).map_or(0, |entries| entries.count());
        assert_eq!(left, 0);
        let written = |line: &str| Some(line.split_once("wrote ")?.1.to_owned());
        text.lines().filter_map(written).collect()
    }
}

fn may_mount() -> bool {
    let probe = "d=$(mktemp -d) && cd $d && mkdir l u w m \
        && mount -t overlay overlay -o lowerdir=l,upperdir=u,workdir=w m";
    let ran = Command::new("unshare").args(["-m", "sh", "-c", probe]).output();
    ran.is_ok_and(|ran| ran.status.success())
}

#[cfg(target_os = "linux")]
#[test]
fn two_containers_of_one_image_never_write_the_same_actor_and_sequence() {
    if let Some(store) = std::env::var_os(STORE) {
        let store = Path::new(&store);
        std::fs::create_dir_all(store.with_file_name("tmp")).unwrap();
        for (actor, sequence) in once(store) {
            println!("wrote {actor} {sequence}");
        }
        return;
    }
    if !may_mount() {
        return println!("SKIPPED (needs root): an overlay cannot be mounted here");
    }
    for memory in [Memory::Own, Memory::Shared] {
        let folder = tempfile::tempdir().unwrap();
        let session = tempfile::tempdir_in("/dev/shm").unwrap();
        let [root, empty, image] = ["root", "empty", "image"].map(|name| folder.path().join(name));
        let run = |name: &str, lower: &Path, upper: &Path| {
            let work = folder.path().join(format!("work-{name}"));
            let container = Container { lower, upper, work: &work, root: &root };
            container.run(memory, session.path())
        };
        let made = run("image", &empty, &image);
        let [one, two] = ["one", "two"].map(|name| run(name, &image, &folder.path().join(name)));
        assert!(made.len() == 2 && one.len() == 3 && two.len() == 3, "{made:?} {one:?} {two:?}");
        let both: Vec<&String> = one.iter().filter(|written| two.contains(written)).collect();
        assert_eq!(
            both,
            made.iter().collect::<Vec<_>>(),
            "{memory:?}: the changes of both containers"
        );
    }
}
