//! The images that pods of a cluster are made of, in one archive: the userland of Debian with upstream's test program in it, `CoreDNS`, and the pod's first
//! process. The tests ask for them under the names of a registry that exists nowhere.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use xshell::cmd;

use crate::{
    bpf_toolchain::on_path,
    debian::{output, own_suite},
    door::{Door, doing, done, patiently},
    image::{
        archive::{self, Image},
        layer::{Files, Layer},
    },
};

/// Where the tests are told to look for images.
const REGISTRIES: &str = "promoterE2eRegistry: shunt.test/e2e\ngcRegistry: shunt.test\nbuildImageRegistry: shunt.test/build\n";
/// What pods of the tests call.
const USERLAND: &str = "dash,bash,busybox,coreutils,grep,sed,mawk,findutils,curl,bind9-dnsutils,netcat-openbsd,iproute2,iperf,iperf3,util-linux,hostname,\
    base-files,base-passwd,libc-bin,conntrack,iptables,nftables,ethtool,ipset,kmod,mount,wget,iputils-ping,procps,nginx-light,apache2-utils";
/// Upstream's test program, and the DNS server that tests expect beside it.
const AGNHOST: [&str; 2] = ["agnhost", "coredns"];
/// What one of agnhost's servers has in its image: a certificate and its key.
const PORTER: [&str; 2] = ["localhost.crt", "localhost.key"];
/// Commands that scripts of the tests know by other names than Debian has them.
const LINKS: &str = r#"set -e; cd "$1"
rm -rf usr/share/doc usr/share/man usr/share/locale usr/share/info usr/share/zoneinfo usr/share/perl var/lib/apt var/lib/dpkg var/cache/*
mkdir -p uploads usr/local/bin; chmod 1777 tmp
ln -sf nc.openbsd usr/bin/nc; ln -sf mawk usr/bin/awk; ln -sf /usr/bin/iperf usr/local/bin/iperf
for name in vi traceroute tar gzip killall less httpd telnet; do [ -e "usr/bin/$name" ] || ln -s busybox "usr/bin/$name"; done
for name in iptables iptables-save iptables-restore ip6tables ip6tables-save ip6tables-restore; do ln -sf xtables-nft-multi "usr/sbin/$name"; done
printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\nwww-data:x:33:33::/:/bin/false\nuser-defined-in-image:x:1000:1000::/:/bin/sh\n' >etc/passwd
printf 'root:x:0:\nnogroup:x:65534:\nwww-data:x:33:\ngroup-defined-in-image:x:50000:user-defined-in-image\n' >etc/group
echo 'hosts: files dns' >etc/nsswitch.conf
echo 'tries = 1' >>etc/wgetrc
"#;

/// Makes the archive of what is in the folder, unless one is there that was made as this one would be. `sources`: of Kubernetes.
pub(super) fn bring(door: &Door, folder: &Path, sources: impl FnOnce() -> Result<PathBuf>) -> Result<()> {
    let [archive, recipe] = ["images.tar", "images.recipe"].map(|file| folder.join(file));
    let ours = [REGISTRIES, USERLAND, LINKS, &AGNHOST.join(" "), &PORTER.join(" ")].join("\n");
    if archive.is_file() && fs::read_to_string(&recipe).is_ok_and(|recipe| recipe == ours) {
        return Ok(());
    }
    make(door, folder, &sources()?, &archive)?;
    fs::write(&recipe, ours).with_context(|| format!("writing {}", recipe.display()))
}

fn make(door: &Door, folder: &Path, sources: &Path, archive: &Path) -> Result<()> {
    doing("making the images of the cluster's pods");
    let names = Names::read(door, folder)?;
    let read = |program: &str| fs::read(folder.join(program)).with_context(|| format!("reading {program}"));
    let single = |path: &str, program: &str| Ok(Layer::plain(Files::new().file(path, 0o755, &read(program)?)?.tar()?)) as Result<Layer>;
    let userland = Layer::plain(userland(door)?);
    let agnhost = AGNHOST.into_iter().try_fold(Files::new(), |files, program| files.file(program, 0o755, &read(program)?))?;
    let agnhost = agnhost.link("agnhost-2", "agnhost")?;
    let agnhost = PORTER.into_iter().try_fold(agnhost, |files, file| {
        let from = sources.join("test/images/agnhost/porter").join(file);
        files.file(file, 0o644, &fs::read(&from).with_context(|| format!("reading {}", from.display()))?)
    })?;
    let agnhost = Layer::plain(agnhost.tar()?);
    let (coredns, pause) = (single("coredns", "coredns")?, single("pause", "pause")?);
    let regression = single("regression-issue-74839", "regression-issue-74839")?;
    let runs = |entrypoint: &[&str], arguments: &[&str]| {
        let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let words = |words: &[&str]| if words.is_empty() { Value::Null } else { json!(words) };
        json!({"Env": [path], "Entrypoint": words(entrypoint), "Cmd": words(arguments), "WorkingDir": "/"})
    };
    let image = |names: Vec<String>, layers: Vec<_>, config: Value| Image { names, arch: "amd64", layers, config };
    let shells = ["e2e/busybox", "e2e/glibc-dns-testing", "build/distroless-iptables"].iter().flat_map(|path| names.of(path));
    let shells = shells.chain(["shunt.test/debian:1".to_owned()]).collect();
    let images = [
        image(names.of("e2e/agnhost"), vec![&userland, &agnhost], runs(&["/agnhost"], &["pause"])),
        image(shells, vec![&userland], runs(&[], &["sh"])),
        image(names.of("e2e/nginx"), vec![&userland], runs(&["/usr/sbin/nginx", "-g", "daemon off;"], &[])),
        image(names.of("e2e/regression-issue-74839"), vec![&regression], runs(&["/regression-issue-74839"], &[])),
        image([names.of("pause"), vec!["shunt.test/pause:1".to_owned()]].concat(), vec![&pause], runs(&["/pause"], &[])),
        image(vec!["shunt.test/coredns:1".to_owned()], vec![&coredns], runs(&["/coredns"], &[])),
    ];
    archive::write(archive, &images)?;
    done(&format!("{}", archive.display()));
    Ok(())
}

/// The names under which the tests ask for images.
struct Names(Vec<String>);

impl Names {
    fn read(door: &Door, folder: &Path) -> Result<Self> {
        let registries = folder.join("registries.yaml");
        fs::write(&registries, REGISTRIES).context("writing where images come from")?;
        let tests = folder.join("e2e.test");
        let _env = door.sh.push_env("KUBE_TEST_REPO_LIST", &registries);
        let listed = output(cmd!(door.sh, "{tests} --list-images")).context("asking the tests which images they want")?;
        Ok(Self(listed.lines().map(str::to_owned).collect()))
    }

    /// Those of one image, whatever the versions.
    fn of(&self, path: &str) -> Vec<String> {
        let prefix = format!("shunt.test/{path}:");
        self.0.iter().filter(|name| name.starts_with(&prefix)).cloned().collect()
    }
}

/// The file system of a small Debian, as an archive.
fn userland(door: &Door) -> Result<Vec<u8>> {
    on_path("mmdebstrap").context("there is no mmdebstrap to make images with: install the package of that name")?;
    let sh = &door.sh;
    let work = sh.create_temp_dir()?;
    let (tar, hook) = (work.path().join("userland.tar"), work.path().join("links"));
    fs::write(&hook, format!("#!/bin/sh\n{LINKS}")).context("writing the hook")?;
    cmd!(sh, "chmod +x {hook}").quiet().run()?;
    let (include, hook) = (format!("--include={USERLAND}"), format!("--extract-hook={}", hook.display()));
    let merged = "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr";
    let suite = own_suite();
    patiently(|| output(cmd!(sh, "mmdebstrap --quiet --variant=extract --mode=root {merged} {include} {hook} {suite} {tar}")))
        .context("unpacking a small Debian")?;
    fs::read(&tar).context("reading the userland")
}
