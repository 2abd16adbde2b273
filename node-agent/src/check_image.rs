//! The programs and libraries of a container image, as far as `agentsight check` looks at them: those of an archive
//! (`docker save`, `docker export`, an OCI archive), of an OCI layout, or of a folder with a root file system.
//!
//! Only files are read; nothing is unpacked to where it has a name. An archive may come from anywhere: what it makes us hold
//! is bounded, and of a file's content no more is written than it has.

use flate2::read::MultiGzDecoder;
use ruzstd::decoding::StreamingDecoder;
use serde::Deserialize;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};
use tar::{Archive, EntryType};

/// Why an image cannot be looked at.
#[derive(thiserror::Error, Debug)]
pub enum Error {
    /// It cannot be read.
    #[error("cannot read the image {path}: {source}", path = .path.display())]
    Read {
        /// Which one.
        path: PathBuf,
        /// What the system, or whoever unpacks it, said.
        #[source]
        source: io::Error,
    },
    /// It names what is not in it.
    #[error("the image {path} is not whole: {what}", path = .path.display())]
    Broken {
        /// Which one.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

/// A description of an image, in bytes: more is no description.
const LONGEST_DESCRIPTION: u64 = 4 << 20;
/// Files and layers whose names are remembered.
const MOST_NAMES: usize = 4 << 20;
/// The largest program that is looked at, in bytes.
const LARGEST_PROGRAM: u64 = 4 << 30;
/// As in a path on Linux.
const DEEPEST_FOLDER: usize = 128;

/// Calls `each` with the programs and libraries of an image, by their paths in it. Nothing where `path` is no image.
///
/// # Errors
/// See [`Error`].
pub fn programs(path: &Path, mut each: impl FnMut(&Path, &File)) -> Result<Option<()>, Error> {
    let read = |source| Error::Read { path: path.to_owned(), source };
    let broken = |what: String| Error::Broken { path: path.to_owned(), what };
    let from_input = path == Path::new("-");
    let mut source = if from_input {
        Source::archive(spooled(io::stdin().lock()).map_err(read)?).map_err(read)?
    } else if path.is_dir() {
        if !path.join("oci-layout").is_file() {
            walk(path, Path::new("/"), 0, &mut each).map_err(read)?;
            return Ok(Some(()));
        }
        Source::Folder(path.to_owned())
    } else {
        let mut file = match File::open(path) {
            Ok(file) => file,
            // It may be the name of a program.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(read(error)),
        };
        if !is_archive(&mut file).map_err(read)? {
            return Ok(None);
        }
        Source::archive(file).map_err(read)?
    };
    let mut seen = Seen::default();
    for layer in source.layers(&broken).map_err(read)?? {
        let bytes = match &layer {
            Some(name) => source.open(name).map_err(read)?.ok_or_else(|| broken(format!("no {name}")))?,
            None => source.whole().map_err(read)?,
        };
        layer_programs(bytes, &mut seen, &mut each).map_err(read)?;
    }
    Ok(Some(()))
}

/// Whether a file is an archive, compressed or not; not what is merely compressed.
fn is_archive(file: &mut File) -> io::Result<bool> {
    let mut head = Vec::new();
    file.take(512).read_to_end(&mut head)?;
    if !is_tar(&head) {
        file.rewind()?;
        head.clear();
        decompressed(Box::new(&mut *file))?.take(512).read_to_end(&mut head).unwrap_or(0);
    }
    file.rewind()?;
    Ok(is_tar(&head))
}

/// POSIX.1-1988, ustar: what every archive of an image is.
fn is_tar(head: &[u8]) -> bool {
    head.get(257..262) == Some(b"ustar")
}

/// Where the parts of an image are.
enum Source {
    /// An archive, with the place and the size of each part.
    Archive(File, HashMap<String, (u64, u64)>),
    /// A folder with an OCI layout.
    Folder(PathBuf),
}

#[derive(Deserialize)]
struct DockerManifest {
    #[serde(rename = "Layers")]
    layers: Vec<String>,
}

/// An index, or a manifest, as the OCI image specification has them.
#[derive(Deserialize)]
struct Description {
    #[serde(default)]
    manifests: Vec<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    architecture: String,
}

impl Source {
    fn archive(mut file: File) -> io::Result<Source> {
        let mut head = [0; 512];
        let filled = file.read(&mut head)?;
        file.rewind()?;
        if !is_tar(&head[..filled]) {
            let plain = spooled(decompressed(Box::new(&mut file))?)?;
            file = plain;
        }
        let mut places = HashMap::new();
        for entry in Archive::new(&file).entries_with_seek()? {
            let entry = entry?;
            if places.len() < MOST_NAMES && entry.header().entry_type() == EntryType::Regular {
                let name = entry.path()?.to_string_lossy().trim_start_matches("./").to_owned();
                places.insert(name, (entry.raw_file_position(), entry.size()));
            }
        }
        Ok(Source::Archive(file, places))
    }

    fn open(&mut self, name: &str) -> io::Result<Option<Box<dyn Read + '_>>> {
        match self {
            Source::Archive(file, places) => {
                let Some((place, size)) = places.get(name) else { return Ok(None) };
                file.seek(SeekFrom::Start(*place))?;
                Ok(Some(Box::new(file.take(*size))))
            }
            Source::Folder(path) => {
                let path = path.join(name);
                Ok(if path.is_file() { Some(Box::new(File::open(path)?)) } else { None })
            }
        }
    }

    fn whole(&mut self) -> io::Result<Box<dyn Read + '_>> {
        match self {
            Source::Archive(file, _) => {
                file.rewind()?;
                Ok(Box::new(file))
            }
            Source::Folder(_) => Ok(Box::new(io::empty())),
        }
    }

    /// The image's layers, the uppermost first; none of a name where the archive is a file system itself.
    fn layers(
        &mut self,
        broken: &impl Fn(String) -> Error,
    ) -> io::Result<Result<Vec<Option<String>>, Error>> {
        let named = |layers: Vec<String>| layers.into_iter().rev().map(Some).collect();
        if let Some(text) = self.text("manifest.json")? {
            let Ok(images) = serde_json::from_str::<Vec<DockerManifest>>(&text) else {
                return Ok(Err(broken("manifest.json is none of `docker save`".to_owned())));
            };
            return Ok(match images.into_iter().next() {
                Some(image) => Ok(named(image.layers)),
                None => Err(broken("manifest.json names no image".to_owned())),
            });
        }
        let mut name = "index.json".to_owned();
        // An index of indexes is as deep as it gets.
        for _ in 0..4 {
            let Some(text) = self.text(&name)? else {
                return Ok(if name == "index.json" && matches!(self, Source::Archive(..)) {
                    Ok(vec![None])
                } else {
                    Err(broken(format!("no {name}")))
                });
            };
            let Ok(description) = serde_json::from_str::<Description>(&text) else {
                return Ok(Err(broken(format!("{name} is no index and no manifest"))));
            };
            if !description.layers.is_empty() {
                let layers: Option<Vec<_>> = description.layers.iter().map(Descriptor::place).collect();
                return Ok(layers
                    .map(named)
                    .ok_or_else(|| broken(format!("{name} has a digest that is none"))));
            }
            let ours = |manifest: &&Descriptor| {
                manifest.platform.as_ref().is_some_and(|platform| platform.architecture == ARCHITECTURE)
            };
            let manifests = &description.manifests;
            let Some(place) =
                manifests.iter().find(ours).or_else(|| manifests.first()).and_then(Descriptor::place)
            else {
                break;
            };
            name = place;
        }
        Ok(Err(broken(format!("{name} names no layers"))))
    }

    fn text(&mut self, name: &str) -> io::Result<Option<String>> {
        let Some(bytes) = self.open(name)? else { return Ok(None) };
        let mut text = String::new();
        bytes.take(LONGEST_DESCRIPTION).read_to_string(&mut text)?;
        Ok(Some(text))
    }
}

/// This machine's, as images name it.
const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

impl Descriptor {
    /// Where what it describes is in a layout.
    fn place(&self) -> Option<String> {
        let (algorithm, digest) = self.digest.split_once(':')?;
        let is_plain = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
        (is_plain(algorithm) && is_plain(digest)).then(|| format!("blobs/{algorithm}/{digest}"))
    }
}

/// What the layers above have: files, whiteouts, and folders of which nothing below is seen.
#[derive(Default)]
struct Seen {
    names: HashSet<PathBuf>,
    opaque: HashSet<PathBuf>,
}

impl Seen {
    fn hides(&self, path: &Path) -> bool {
        path.ancestors().any(|above| self.names.contains(above))
            || path.ancestors().skip(1).any(|above| self.opaque.contains(above))
    }
}

/// The programs of a layer, but for those that a layer above hides.
fn layer_programs(
    bytes: Box<dyn Read + '_>,
    seen: &mut Seen,
    each: &mut impl FnMut(&Path, &File),
) -> io::Result<()> {
    let mut archive = Archive::new(decompressed(bytes)?);
    let mut here = Seen::default();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let Some(path) = in_root(&entry.path()?) else { continue };
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let folder = path.parent().unwrap_or(Path::new("/"));
        // Whiteouts, by the OCI image specification.
        if name == ".wh..wh..opq" {
            here.opaque.insert(folder.to_owned());
            continue;
        }
        if let Some(hidden) = name.strip_prefix(".wh.") {
            here.names.insert(folder.join(hidden));
            continue;
        }
        let kind = entry.header().entry_type();
        if kind == EntryType::Directory || seen.hides(&path) {
            continue;
        }
        if kind == EntryType::Regular
            && is_code(&name, entry.header().mode().unwrap_or(0))
            && let Some(file) = elf(&mut entry)?
        {
            each(&path, &file);
        }
        if seen.names.len() + here.names.len() < MOST_NAMES {
            here.names.insert(path);
        }
    }
    seen.names.extend(here.names);
    seen.opaque.extend(here.opaque);
    Ok(())
}

/// A path of an archive as one in the image; none where it leads out of it.
fn in_root(path: &Path) -> Option<PathBuf> {
    let mut place = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => place.push(name),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(place)
}

/// Whether a file may be mapped as code: it is executable, or a library.
fn is_code(name: &str, mode: u32) -> bool {
    mode & 0o111 != 0 || name.ends_with(".so") || name.contains(".so.") || name.ends_with(".node")
}

/// An ELF file as one without a name.
fn elf(entry: &mut impl Read) -> io::Result<Option<File>> {
    let mut head = Vec::new();
    entry.take(4).read_to_end(&mut head)?;
    if head != object::elf::ELFMAG {
        return Ok(None);
    }
    let mut file = tempfile::tempfile()?;
    io::copy(&mut head.as_slice().chain(entry.take(LARGEST_PROGRAM)), &mut file)?;
    file.rewind()?;
    Ok(Some(file))
}

/// The programs of a root file system. Links are not followed: they would lead out of it.
fn walk(folder: &Path, place: &Path, depth: usize, each: &mut impl FnMut(&Path, &File)) -> io::Result<()> {
    if depth > DEEPEST_FOLDER {
        return Ok(());
    }
    let mut entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries.collect::<io::Result<Vec<_>>>()?,
        Err(error) if depth > 0 && error.kind() == io::ErrorKind::PermissionDenied => return Ok(()),
        Err(error) => return Err(error),
    };
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let kind = entry.file_type()?;
        let path = place.join(entry.file_name());
        if kind.is_dir() {
            walk(&entry.path(), &path, depth + 1, each)?;
        } else if kind.is_file() {
            let mode = entry.metadata()?.permissions().mode();
            let Ok(mut file) = File::open(entry.path()) else { continue };
            let mut head = [0; 4];
            if is_code(&entry.file_name().to_string_lossy(), mode)
                && file.read_exact(&mut head).is_ok()
                && head == object::elf::ELFMAG
            {
                file.rewind()?;
                each(&path, &file);
            }
        }
    }
    Ok(())
}

/// Bytes as they were before they were compressed, by their first ones (RFC 1952, RFC 8878).
fn decompressed<'a>(mut bytes: Box<dyn Read + 'a>) -> io::Result<Box<dyn Read + 'a>> {
    let mut head = Vec::new();
    bytes.by_ref().take(4).read_to_end(&mut head)?;
    let is_gzip = head.starts_with(&[0x1f, 0x8b]);
    let is_zstd = head == [0x28, 0xb5, 0x2f, 0xfd];
    let all = io::Cursor::new(head).chain(bytes);
    Ok(if is_gzip {
        Box::new(MultiGzDecoder::new(all))
    } else if is_zstd {
        Box::new(StreamingDecoder::new(all).map_err(io::Error::other)?)
    } else {
        Box::new(all)
    })
}

/// All of a stream as a file without a name.
fn spooled(mut bytes: impl Read) -> io::Result<File> {
    let mut file = tempfile::tempfile()?;
    io::copy(&mut bytes, &mut file)?;
    file.rewind()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write;

    /// Neither a library nor a program, but an ELF file.
    const ELF: &[u8] = b"\x7fELF and more";

    fn archive(files: &[(&str, u32, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, mode, content) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_mode(*mode);
            builder.append_data(&mut header, path, *content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn found(path: &Path) -> Result<Option<Vec<String>>, Error> {
        let mut paths = Vec::new();
        let is_image = programs(path, |path, file| {
            let mut content = Vec::new();
            let mut file = file;
            file.read_to_end(&mut content).unwrap();
            assert_eq!(content, ELF);
            paths.push(path.display().to_string());
        })?;
        paths.sort();
        Ok(is_image.map(|()| paths))
    }

    fn found_in(bytes: &[u8]) -> Result<Option<Vec<String>>, Error> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        found(file.path())
    }

    fn layers() -> [Vec<u8>; 2] {
        let lower = archive(&[
            ("usr/bin/agent", 0o755, ELF),
            ("usr/bin/removed", 0o755, ELF),
            ("opt/old/agent", 0o755, ELF),
            ("usr/lib/libssl.so.3", 0o644, ELF),
            ("usr/share/data", 0o644, ELF),
            ("usr/bin/script", 0o755, b"#!/bin/sh\n"),
        ]);
        let upper = archive(&[
            ("usr/bin/.wh.removed", 0o644, b""),
            ("opt/.wh..wh..opq", 0o644, b""),
            ("opt/new", 0o755, ELF),
            ("usr/bin/agent", 0o755, b"a script now"),
        ]);
        [lower, upper]
    }

    const SEEN: [&str; 2] = ["/opt/new", "/usr/lib/libssl.so.3"];

    #[test]
    fn of_an_archive_of_docker_save_what_the_upper_layers_leave_is_seen() {
        let [lower, upper] = layers();
        let manifest = br#"[{"Config":"c.json","RepoTags":["a:1"],"Layers":["1/layer.tar","2/layer.tar"]}]"#;
        let image = archive(&[
            ("1/layer.tar", 0o644, &lower),
            ("2/layer.tar", 0o644, &upper),
            ("manifest.json", 0o644, manifest),
        ]);
        assert_eq!(found_in(&image).unwrap().unwrap(), SEEN);
        assert_eq!(found_in(&gzip(&image)).unwrap().unwrap(), SEEN, "docker save | gzip");
    }

    #[test]
    fn of_an_oci_layout_the_image_for_this_machine_is_seen() {
        let [lower, upper] = layers();
        let index = format!(
            r#"{{"manifests":[{{"digest":"sha256:f0","platform":{{"architecture":"s390x"}}}},
                {{"digest":"sha256:a0","platform":{{"architecture":"{ARCHITECTURE}"}}}}]}}"#
        );
        let manifest = br#"{"layers":[{"digest":"sha256:b1"},{"digest":"sha256:b2"}]}"#;
        let files: [(&str, u32, &[u8]); 5] = [
            ("oci-layout", 0o644, b"{}"),
            ("index.json", 0o644, index.as_bytes()),
            ("blobs/sha256/a0", 0o644, manifest),
            ("blobs/sha256/b1", 0o644, &gzip(&lower)),
            ("blobs/sha256/b2", 0o644, &upper),
        ];
        assert_eq!(found_in(&archive(&files)).unwrap().unwrap(), SEEN);
        let folder = tempfile::tempdir().unwrap();
        Archive::new(archive(&files).as_slice()).unpack(folder.path()).unwrap();
        assert_eq!(found(folder.path()).unwrap().unwrap(), SEEN);
    }

    #[test]
    fn of_a_file_system_all_is_seen_as_an_archive_and_as_a_folder() {
        let [lower, _] = layers();
        let all = ["/opt/old/agent", "/usr/bin/agent", "/usr/bin/removed", "/usr/lib/libssl.so.3"];
        assert_eq!(found_in(&lower).unwrap().unwrap(), all, "docker export");
        let folder = tempfile::tempdir().unwrap();
        Archive::new(lower.as_slice()).unpack(folder.path()).unwrap();
        assert_eq!(found(folder.path()).unwrap().unwrap(), all);
    }

    #[test]
    fn what_is_no_image_is_none_and_a_broken_one_says_what_is_missing() {
        assert!(found_in(ELF).unwrap().is_none());
        assert!(found_in(&gzip(b"text")).unwrap().is_none());
        assert!(found(Path::new("/nowhere/to/be/found")).unwrap().is_none());
        for (name, content, told) in [
            ("manifest.json", &br#"[{"Layers":["gone.tar"]}]"#[..], "no gone.tar"),
            ("manifest.json", b"[]", "names no image"),
            ("manifest.json", b"{", "none of `docker save`"),
            ("index.json", br#"{"manifests":[{"digest":"sha256:../../etc/passwd"}]}"#, "names no layers"),
            ("index.json", br#"{"manifests":[{"digest":"sha256:a0"}]}"#, "no blobs/sha256/a0"),
        ] {
            let error = found_in(&archive(&[(name, 0o644, content)])).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
    }

    #[test]
    fn an_archive_that_is_cut_is_an_error() {
        let [lower, _] = layers();
        let error = found_in(&lower[..lower.len() / 2 - 100]).unwrap_err();
        assert!(error.to_string().starts_with("cannot read the image"), "{error}");
    }
}
