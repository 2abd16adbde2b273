//! Which file a path really is: probes belong to a file's inode, and many paths lead to one.
//!
//! On overlayfs (container images) the kernel attaches to the layer's own file, which all containers of the image
//! share, while `stat` shows another device for each mount. So the layer's file is looked up, by the mount's options.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A real file, whatever path or mount it was reached through.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FileKey {
    device: u64,
    inode: u64,
}

impl FileKey {
    /// The inode's number.
    pub fn inode(self) -> u64 {
        self.inode
    }
}

/// An opened regular file.
#[derive(Debug)]
pub struct RealFile {
    /// The file, open for reading.
    pub file: File,
    /// What it is.
    pub key: FileKey,
    /// Changes with the file's content and with a reuse of its inode.
    pub changed: (i64, i64, u64),
}

impl RealFile {
    /// Opens a regular file for reading. `process` is the one whose mounts the path goes through.
    ///
    /// # Errors
    /// When it cannot be opened, or is no regular file.
    pub fn open(path: &Path, process: Option<u32>) -> io::Result<RealFile> {
        let file = OpenOptions::new()
            .read(true)
            // A path that a traced program names may be a FIFO or a terminal.
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let key = overlay_layer(&file, process)?
            .unwrap_or(FileKey { device: metadata.dev(), inode: metadata.ino() });
        Ok(RealFile { changed: (metadata.ctime(), metadata.ctime_nsec(), metadata.size()), file, key })
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.changed.2
    }

    /// A path that the kernel resolves to this very file, as long as it is open.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }
}

const OVERLAYFS_MAGIC: i64 = 0x794c_7630; // linux/magic.h

/// The layer's own file behind a file of an overlay mount; `None` on other file systems.
fn overlay_layer(file: &File, process: Option<u32>) -> io::Result<Option<FileKey>> {
    // SAFETY: a zeroed statfs is a valid one to be filled in, and the descriptor is open.
    let kind = unsafe {
        let mut statfs: libc::statfs = std::mem::zeroed();
        if libc::fstatfs(file.as_raw_fd(), &raw mut statfs) != 0 {
            return Err(io::Error::last_os_error());
        }
        statfs.f_type
    };
    if kind != OVERLAYFS_MAGIC {
        return Ok(None);
    }
    let metadata = file.metadata()?;
    let layers = mount_of(file, process).map(|mount| mount.layers()).unwrap_or_default();
    let same = layers.iter().filter_map(|path| std::fs::symlink_metadata(path).ok()).find(|layer| {
        layer.is_file()
            && layer.size() == metadata.size()
            && (layer.mtime(), layer.mtime_nsec()) == (metadata.mtime(), metadata.mtime_nsec())
    });
    Ok(Some(match same {
        Some(layer) => FileKey { device: layer.dev(), inode: layer.ino() },
        // The layers are not to be seen from here: inode and size stay the same through every mount of one layer.
        // Two mounts of one file that are taken for two cost time, not truth: the second return probe finds nothing.
        None => FileKey { device: u64::MAX ^ metadata.size(), inode: metadata.ino() },
    }))
}

struct Mount {
    /// The file's path below the mount.
    below: PathBuf,
    options: String,
}

impl Mount {
    /// Where the file may be in the layers: upper first, then lower ones from the top.
    fn layers(&self) -> Vec<PathBuf> {
        let mut upper = Vec::new();
        let mut lower = Vec::new();
        for option in split_unescaped(&self.options, b',') {
            if let Some(value) = option.strip_prefix("upperdir=") {
                upper.push(value.to_owned());
            } else if let Some(value) = option.strip_prefix("lowerdir+=") {
                lower.push(value.to_owned());
            } else if let Some(value) = option.strip_prefix("lowerdir=") {
                lower.extend(split_unescaped(value, b':').into_iter().filter(|layer| !layer.is_empty()));
            }
        }
        upper.into_iter().chain(lower).map(|layer| Path::new(&unescape(&layer)).join(&self.below)).collect()
    }
}

fn split_unescaped(text: &str, separator: u8) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut escaped = false;
    for character in text.chars() {
        if character == char::from(separator) && !escaped {
            parts.push(String::new());
        } else if let Some(last) = parts.last_mut() {
            last.push(character);
        }
        escaped = character == '\\' && !escaped;
    }
    parts
}

/// Undoes mountinfo's `\040` and overlayfs' `\:`.
fn unescape(text: &str) -> OsString {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let octal = bytes
            .get(i + 1..i + 4)
            .filter(|digits| bytes[i] == b'\\' && digits.iter().all(u8::is_ascii_digit));
        if let Some(digits) = octal {
            let value = digits.iter().fold(0u32, |sum, digit| sum * 8 + u32::from(digit - b'0'));
            out.push(u8::try_from(value & 0xff).unwrap_or(b'?'));
            i += 4;
        } else {
            if bytes[i] == b'\\' && i + 1 < bytes.len() {
                i += 1;
            }
            out.push(bytes[i]);
            i += 1;
        }
    }
    OsString::from_vec(out)
}

/// The mount that an open file was reached through.
fn mount_of(file: &File, process: Option<u32>) -> Option<Mount> {
    let fd = file.as_raw_fd();
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim().to_owned();
    let path = std::fs::read_link(format!("/proc/self/fd/{fd}")).ok()?;
    let who = process.map_or_else(|| "self".to_owned(), |process| process.to_string());
    let mounts = std::fs::read_to_string(format!("/proc/{who}/mountinfo")).ok()?;
    // 36 35 98:0 /root /mount/point options… - type source super-options   (proc_pid_mountinfo(5))
    mounts.lines().find_map(|line| {
        let (front, back) = line.split_once(" - ")?;
        let fields: Vec<&str> = front.split(' ').collect();
        let (mount_id, root, point) = (fields.first()?, fields.get(3)?, fields.get(4)?);
        if *mount_id != id {
            return None;
        }
        let point = unescape(point);
        let below = path.strip_prefix(Path::new(&point)).ok()?;
        let root = unescape(root);
        let below = Path::new(OsStr::from_bytes(root.as_bytes().strip_prefix(b"/")?)).join(below);
        Some(Mount { below, options: back.splitn(3, ' ').nth(2)?.to_owned() })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_paths_to_one_file_are_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (folder.path().join("a"), folder.path().join("b"));
        std::fs::write(&first, "x").unwrap();
        std::fs::hard_link(&first, &second).unwrap();
        assert_eq!(RealFile::open(&first, None).unwrap().key, RealFile::open(&second, None).unwrap().key);
    }

    #[test]
    fn a_fifo_is_refused_and_does_not_block() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fifo");
        let name = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
        // SAFETY: a NUL-terminated path.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        assert_eq!(RealFile::open(&path, None).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn layers_come_upper_first_and_with_their_escapes_undone() {
        let mount = Mount {
            below: PathBuf::from("usr/lib/libssl.so.3"),
            options: r"rw,lowerdir=/l/one\040dir:/l/t\:wo,upperdir=/u,workdir=/w".to_owned(),
        };
        let layers = mount.layers();
        let expected =
            ["/u/usr/lib/libssl.so.3", "/l/one dir/usr/lib/libssl.so.3", "/l/t:wo/usr/lib/libssl.so.3"];
        assert_eq!(layers, expected.map(PathBuf::from));
    }

    #[test]
    fn layers_given_one_by_one_are_found_too() {
        let mount = Mount { below: PathBuf::from("f"), options: "ro,lowerdir+=/a,lowerdir+=/b".to_owned() };
        assert_eq!(mount.layers(), [PathBuf::from("/a/f"), PathBuf::from("/b/f")]);
    }
}
