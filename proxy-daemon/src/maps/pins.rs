//! Where things are pinned below the daemon's folder in bpffs, and what they are called there.
//!
//! Everything lies in a folder of the layout's version, so that another version of the types finds nothing it would misread:
//! `vLAYOUT/maps/NAME`, `vLAYOUT/links/IFINDEX-ingress`, `vLAYOUT/links/socket-PROGRAM`, `vLAYOUT/programs/NAME`.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use proxy_common::maps::LAYOUT_VERSION;

const SOCKET_LINK: &str = "socket-";

/// The daemon's folder in bpffs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pins {
    root: PathBuf,
}

/// Which of a device's two hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    Ingress,
    Egress,
}

impl Direction {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

impl Pins {
    /// The folder that `--bpffs` names.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of this layout's version.
    pub fn version(&self) -> PathBuf {
        self.root.join(format!("v{LAYOUT_VERSION}"))
    }

    /// The folders of all layouts' versions that are there, in order.
    pub fn versions(&self) -> io::Result<Vec<PathBuf>> {
        let names = match names_in(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            names => names?,
        };
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let is_version = |name: &String| name.strip_prefix('v').is_some_and(is_number);
        let dirs = names.into_iter().filter(is_version).map(|name| self.root.join(name));
        Ok(dirs.filter(|dir| dir.is_dir() && !dir.is_symlink()).collect())
    }

    /// The folder of the maps.
    pub fn maps(&self) -> PathBuf {
        Self::maps_in(&self.version())
    }

    /// The folder of the maps in any version's folder.
    pub fn maps_in(version: &Path) -> PathBuf {
        version.join("maps")
    }

    /// The folder of the programs.
    pub fn programs(&self) -> PathBuf {
        self.version().join("programs")
    }

    /// The folder of the links.
    pub fn links(&self) -> PathBuf {
        Self::links_in(&self.version())
    }

    /// The folder of the links in any version's folder.
    pub fn links_in(version: &Path) -> PathBuf {
        version.join("links")
    }

    /// The link of one hook of a device.
    pub fn link(&self, ifindex: u32, direction: Direction) -> PathBuf {
        self.links().join(format!("{ifindex}-{direction}"))
    }

    /// The link of a device's XDP program in a mode.
    pub fn xdp_link(&self, ifindex: u32, mode: &str) -> PathBuf {
        self.links().join(format!("{ifindex}-xdp-{mode}"))
    }

    /// The link of a program of sockets.
    pub fn socket_link(&self, program: &str) -> PathBuf {
        self.links().join(format!("{SOCKET_LINK}{program}"))
    }

    /// Whether a link's file name is that of a program of sockets, or of one that was about to be.
    pub fn is_socket_link(name: &str) -> bool {
        name.starts_with(SOCKET_LINK)
    }

    /// The device and the mode that an XDP link's file name stands for.
    pub fn parse_xdp_link(name: &str) -> Option<(u32, &str)> {
        let (ifindex, mode) = name.split_once("-xdp-")?;
        Some((ifindex.parse().ok()?, mode))
    }

    /// The hook that a link's file name stands for.
    pub fn parse_link(name: &str) -> Option<(u32, Direction)> {
        let (ifindex, direction) = name.split_once('-')?;
        let direction = Direction::ALL.into_iter().find(|known| known.to_string() == direction)?;
        Some((ifindex.parse().ok()?, direction))
    }
}

/// Removes a pin. One that is not there is as good as removed.
pub fn unpin(pin: &Path) -> io::Result<()> {
    match fs::remove_file(pin) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io::Error::new(error.kind(), format!("removing {}: {error}", pin.display())))
        }
        _ => Ok(()),
    }
}

/// The names of what is pinned in a folder, in order.
pub fn names_in(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = fs::read_dir(dir)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<Vec<_>>>()
        .map_err(|error| io::Error::new(error.kind(), format!("reading {}: {error}", dir.display())))?;
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_found_again_by_its_name() {
        let pins = Pins::new("/sys/fs/bpf/shunt".into());
        let path = pins.link(12, Direction::Egress);
        let name = path.file_name().unwrap().to_str().unwrap();
        assert_eq!(Pins::parse_link(name), Some((12, Direction::Egress)));
        assert_eq!(Pins::parse_link("eth0"), None);
        let path = pins.xdp_link(12, "native");
        let name = path.file_name().unwrap().to_str().unwrap();
        assert_eq!((Pins::parse_xdp_link(name), Pins::parse_link(name)), (Some((12, "native")), None));
        assert_eq!(Pins::parse_xdp_link("12-ingress"), None);
    }

    #[test]
    fn versions_are_told_from_what_is_not_ours() {
        let dir = tempfile::tempdir().unwrap();
        let pins = Pins::new(dir.path().join("shunt"));
        assert_eq!(pins.versions().unwrap(), Vec::<PathBuf>::new());
        for name in ["v0", "v12", "v", "v-1", "v+1", "v1a", "1", "other"] {
            fs::create_dir_all(pins.root().join(name)).unwrap();
        }
        fs::write(pins.root().join("v3"), "").unwrap();
        std::os::unix::fs::symlink(pins.root().join("other"), pins.root().join("v4")).unwrap();
        assert_eq!(pins.versions().unwrap(), ["v0", "v12"].map(|name| pins.root().join(name)));
    }
}
