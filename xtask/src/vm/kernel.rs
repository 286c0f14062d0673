//! Kernels for the virtual machine: Debian packages, downloaded and unpacked, never installed.
//!
//! A kernel is kept by its release in `$XDG_CACHE_HOME/kube-ipvs/kernels` (or `~/.cache`), outside the source tree, and
//! shared by all working trees. Remove a folder there to have the newest one fetched again.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::image::xz_payload;
use crate::process::{self, CommandExt as _};
use crate::setup;

/// What the initramfs must load before it can see the machine's file system and its output ports.
const BOOT_MODULES: [&str; 5] = ["virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay"];

/// Name of the kernel image in a kernel's folder.
const IMAGE: &str = "image";

/// An unpacked kernel, ready to boot.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// As `uname -r` prints it.
    pub release: String,
    /// Contains `image`, `boot-modules/` and `lib/modules/<release>`.
    folder: PathBuf,
}

impl Kernel {
    /// Finds the newest unpacked kernel of a series such as "6.1", or downloads and unpacks it.
    pub fn of_series(series: &str) -> Result<Self> {
        let cache = cache_folder()?;
        if let Some(kernel) = newest_unpacked(&cache, series)? {
            return Ok(kernel);
        }
        fs::create_dir_all(&cache).with_context(|| format!("creating {}", cache.display()))?;
        unpack(&cache, &package_of_series(series)?)
    }

    /// The kernel image.
    pub fn image(&self) -> PathBuf {
        self.folder.join(IMAGE)
    }

    /// What `/lib/modules/<release>` is to be.
    pub fn modules(&self) -> PathBuf {
        self.folder.join("lib/modules").join(&self.release)
    }

    /// Name and content of the modules of the initramfs, in load order.
    pub fn boot_modules(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let folder = self.folder.join("boot-modules");
        let mut modules = Vec::new();
        for entry in fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
            let entry = entry?;
            let content = fs::read(entry.path()).with_context(|| format!("reading {}", entry.path().display()))?;
            modules.push((entry.file_name().to_string_lossy().into_owned(), content));
        }
        modules.sort();
        Ok(modules)
    }
}

/// The folder of all unpacked kernels.
fn cache_folder() -> Result<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    Ok(base.context("neither XDG_CACHE_HOME nor HOME is an absolute path")?.join("kube-ipvs/kernels"))
}

fn newest_unpacked(cache: &Path, series: &str) -> Result<Option<Kernel>> {
    if !cache.exists() {
        return Ok(None);
    }
    let mut found: Option<Kernel> = None;
    for entry in fs::read_dir(cache).with_context(|| format!("reading {}", cache.display()))? {
        let entry = entry?;
        let release = entry.file_name().to_string_lossy().into_owned();
        let newer = found.as_ref().is_none_or(|best| numbers(&best.release) < numbers(&release));
        if is_of_series(&release, series) && newer && entry.path().join(IMAGE).exists() {
            found = Some(Kernel { release, folder: entry.path() });
        }
    }
    Ok(found)
}

/// Whether a release such as "6.1.0-56-amd64" belongs to a series such as "6.1".
fn is_of_series(release: &str, series: &str) -> bool {
    release.strip_prefix(series).is_some_and(|rest| rest.starts_with('.'))
}

/// The numbers of a release, for comparing.
fn numbers(release: &str) -> Vec<u64> {
    release.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

/// The name of the real package of a series, which Debian's meta packages depend on.
fn package_of_series(series: &str) -> Result<String> {
    setup::apt_lists()?;
    let metas = [format!("linux-image-{series}-amd64"), "linux-image-amd64".to_owned()];
    for meta in &metas {
        // An unknown meta package is an error of apt-cache, and no reason not to try the next one.
        let depends = Command::new("apt-cache").args(["depends", meta]).output().context("running apt-cache")?;
        if let Some(package) = package_in_depends(&String::from_utf8_lossy(&depends.stdout), series) {
            return Ok(package);
        }
    }
    bail!("Debian's package lists know no kernel {series} (tried what {} depend on)", metas.join(" and "))
}

/// Picks the kernel image of a series from what `apt-cache depends` prints.
fn package_in_depends(depends: &str, series: &str) -> Option<String> {
    depends.lines().find_map(|line| {
        let package = line.trim().strip_prefix("Depends:")?.trim();
        let release = package.strip_prefix("linux-image-")?;
        is_of_series(release, series).then(|| package.to_owned())
    })
}

/// Downloads and unpacks one package. Works in a folder of its own and renames it at the end, so that two at a time do
/// no harm and an interrupted one leaves nothing half done.
fn unpack(cache: &Path, package: &str) -> Result<Kernel> {
    let release = package.strip_prefix("linux-image-").unwrap_or(package).to_owned();
    eprintln!("xtask: downloading and unpacking {package} into {} (once)", cache.display());
    let work = cache.join(format!(".unpacking-{release}-{}", std::process::id()));
    fs::create_dir_all(&work).with_context(|| format!("creating {}", work.display()))?;
    let result = unpack_into(&work, package, &release).and_then(|()| {
        let folder = cache.join(&release);
        if fs::rename(&work, &folder).is_err() {
            ensure!(folder.join(IMAGE).exists(), "cannot rename {} to {}", work.display(), folder.display());
        }
        Ok(Kernel { release: release.clone(), folder })
    });
    if work.exists() {
        fs::remove_dir_all(&work).with_context(|| format!("removing {}", work.display()))?;
    }
    result
}

fn unpack_into(work: &Path, package: &str, release: &str) -> Result<()> {
    // apt downloads as the user _apt otherwise, who may not write here, and warns about it.
    let mut download = Command::new("apt-get");
    download.args(["-q", "-o", "APT::Sandbox::User=root", "download", package]).current_dir(work);
    download.run_quiet()?;
    let deb = fs::read_dir(work)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension() == Some(OsStr::new("deb")))
        .with_context(|| format!("apt-get download {package} left no .deb file"))?;
    Command::new("dpkg").arg("-x").arg(&deb).arg(work).run_quiet()?;
    fs::remove_file(&deb).with_context(|| format!("removing {}", deb.display()))?;
    let image = work.join(format!("boot/vmlinuz-{release}"));
    let image = fs::read(&image).with_context(|| format!("no kernel image {}", image.display()))?;
    fs::write(work.join(IMAGE), bootable(image, work)?).context("writing the kernel image")?;
    // Debian from 13 on ships modules below /usr.
    if !work.join("lib").exists() {
        fs::rename(work.join("usr/lib"), work.join("lib")).context("the package has neither lib nor usr/lib")?;
    }
    Command::new(process::program("depmod")?).arg("-b").arg(work).arg(release).run_quiet()?;
    copy_boot_modules(work, release)
}

/// The image as qemu boots it fastest.
fn bootable(image: Vec<u8>, work: &Path) -> Result<Vec<u8>> {
    let Some(payload) = xz_payload(&image) else { return Ok(image) };
    let file = work.join("vmlinux.xz");
    fs::write(&file, payload).with_context(|| format!("writing {}", file.display()))?;
    let kernel = Command::new("xz").arg("-dc").arg(&file).read()?;
    fs::remove_file(&file).with_context(|| format!("removing {}", file.display()))?;
    Ok(kernel)
}

/// Puts the modules that the initramfs needs beside the kernel, uncompressed and with the load order in their names.
fn copy_boot_modules(work: &Path, release: &str) -> Result<()> {
    let modules = work.join("lib/modules").join(release);
    let dependencies = fs::read_to_string(modules.join("modules.dep")).context("reading modules.dep")?;
    let builtin = fs::read_to_string(modules.join("modules.builtin")).context("reading modules.builtin")?;
    let target = work.join("boot-modules");
    fs::create_dir_all(&target).context("creating boot-modules")?;
    for (position, path) in load_order(&dependencies, &builtin, &BOOT_MODULES)?.iter().enumerate() {
        let source = modules.join(path);
        let content = if source.extension() == Some(OsStr::new("xz")) {
            Command::new("xz").arg("-dc").arg(&source).read()?
        } else {
            fs::read(&source).with_context(|| format!("reading {}", source.display()))?
        };
        let file = target.join(format!("{position:02}-{}.ko", module_name(path)));
        fs::write(&file, content).with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(())
}

/// "kernel/net/9p/9pnet.ko.xz" → "9pnet". The kernel takes '-' and '_' in module names for the same.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

/// The files to load, each once and after what it depends on. A line of modules.dep is a module and all that it needs,
/// to be loaded from the last to the first.
fn load_order<'a>(dependencies: &'a str, builtin: &str, wanted: &[&str]) -> Result<Vec<&'a str>> {
    let mut order: Vec<&str> = Vec::new();
    for name in wanted {
        if builtin.lines().any(|path| module_name(path) == *name) {
            continue;
        }
        let (path, needs) = dependencies
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(path, _)| module_name(path) == *name)
            .with_context(|| format!("the kernel package has no module {name}"))?;
        for file in needs.split_whitespace().rev().chain([path]) {
            if !order.contains(&file) {
                order.push(file);
            }
        }
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_real_package_is_found_in_what_a_meta_package_depends_on() {
        let depends = "linux-image-6.12-amd64\n  Depends: linux-image-6.12.117+deb12-amd64\n";
        assert_eq!(package_in_depends(depends, "6.12").as_deref(), Some("linux-image-6.12.117+deb12-amd64"));
        assert_eq!(package_in_depends(depends, "6.1"), None, "6.12 is not of the series 6.1");
        assert_eq!(package_in_depends("N: Unable to locate package\n", "6.1"), None);
    }

    #[test]
    fn releases_compare_by_their_numbers() {
        assert!(numbers("6.1.0-9-amd64") < numbers("6.1.0-56-amd64"));
        assert!(is_of_series("6.1.0-56-amd64", "6.1"));
        assert!(!is_of_series("6.12.117+deb12-amd64", "6.1"));
    }

    #[test]
    fn modules_load_after_what_they_need_and_once() {
        let dependencies = "\
kernel/fs/overlayfs/overlay.ko:
kernel/fs/9p/9p.ko.xz: kernel/net/9p/9pnet.ko.xz kernel/fs/netfs/netfs.ko.xz
kernel/net/9p/9pnet_virtio.ko.xz: kernel/net/9p/9pnet.ko.xz kernel/drivers/virtio/virtio.ko.xz
";
        let builtin = "kernel/drivers/virtio/virtio-pci.ko\n";
        let order = load_order(dependencies, builtin, &["virtio_pci", "9pnet_virtio", "9p", "overlay"]).unwrap();
        let names: Vec<_> = order.iter().map(|path| module_name(path)).collect();
        assert_eq!(names, ["virtio", "9pnet", "9pnet_virtio", "netfs", "9p", "overlay"]);
        assert!(load_order(dependencies, builtin, &["ext4"]).is_err());
    }
}
