//! A guest's first file system: its first process, and the modules that take it to the host's files.
//!
//! In: files as bytes. Out: an archive as the kernel unpacks it, `cpio` in its "new ASCII" format
//! (<https://docs.kernel.org/driver-api/early-userspace/buffer-format.html>).

/// An archive in the making.
pub(super) struct Archive(Vec<u8>);

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const CHARACTER_DEVICE: u32 = 0o020_600;
const NO_DEVICE: (u32, u32) = (0, 0);
const CONSOLE: (u32, u32) = (5, 1);
const END: &str = "TRAILER!!!";

/// The archive with a first process and modules, which will be loaded in their order from the folder.
pub(super) fn build(init: &[u8], folder: &str, modules: &[Vec<u8>]) -> Vec<u8> {
    let folder = folder.trim_start_matches('/');
    let mut archive = Archive(Vec::new());
    archive.add("dev", FOLDER, NO_DEVICE, &[]);
    // The first process has nowhere to complain to else.
    archive.add("dev/console", CHARACTER_DEVICE, CONSOLE, &[]);
    archive.add("init", PROGRAM, NO_DEVICE, init);
    archive.add(folder, FOLDER, NO_DEVICE, &[]);
    for (number, module) in modules.iter().enumerate() {
        archive.add(&format!("{folder}/{number:03}"), PROGRAM, NO_DEVICE, module);
    }
    archive.add(END, 0, NO_DEVICE, &[]);
    archive.0
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, (major, minor): (u32, u32), contents: &[u8]) {
        let number = self.0.len();
        self.0.extend_from_slice(b"070701");
        // Inode, mode, owner, group, links, time, size, the file's device, the device it is, the name's length, no checksum.
        let fields = [number, mode as usize, 0, 0, 1, 0, contents.len(), 0, 0, major as usize, minor as usize, name.len() + 1, 0];
        for field in fields {
            self.0.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.0.extend_from_slice(name.as_bytes());
        self.0.push(0);
        self.pad();
        self.0.extend_from_slice(contents);
        self.pad();
    }

    /// Headers and contents begin at multiples of four.
    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_entry_stands_where_the_one_before_says() {
        let archive = build(b"init!", "/modules", &[b"one".to_vec(), b"four".to_vec()]);
        let number = |at: usize| usize::from_str_radix(std::str::from_utf8(&archive[at..at + 8]).unwrap(), 16).unwrap();
        let (mut at, mut entries) = (0, Vec::new());
        while at < archive.len() {
            assert_eq!(&archive[at..at + 6], b"070701");
            let (size, name_len) = (number(at + 6 + 6 * 8), number(at + 6 + 11 * 8));
            let name = &archive[at + 110..at + 110 + name_len - 1];
            let contents = (at + 110 + name_len).next_multiple_of(4);
            entries.push((std::str::from_utf8(name).unwrap(), &archive[contents..contents + size]));
            at = (contents + size).next_multiple_of(4);
        }
        let expected: [(&str, &[u8]); 7] = [
            ("dev", b""),
            ("dev/console", b""),
            ("init", b"init!"),
            ("modules", b""),
            ("modules/000", b"one"),
            ("modules/001", b"four"),
            (END, b""),
        ];
        assert_eq!(entries, expected);
    }
}
