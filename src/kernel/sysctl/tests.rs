use super::*;

fn tree(files: &[(&str, &str)]) -> (PathBuf, Sysctl) {
    let unique = format!("kube-ipvs-sysctl-{}-{:?}", std::process::id(), std::thread::current().id());
    let root = std::env::temp_dir().join(unique);
    for (path, value) in files {
        let file = root.join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, value).unwrap();
    }
    (root.clone(), Sysctl::at(root))
}

fn paths(needs: &Needs, kernel: KernelVersion) -> Vec<&'static str> {
    settings(needs, kernel).iter().map(|setting| setting.path).collect()
}

#[test]
fn releases_of_distributions_are_understood() {
    let parse = |text: &str| text.parse::<KernelVersion>();
    assert_eq!(parse("6.1.0-13-amd64"), Ok(KernelVersion::new(6, 1)));
    assert_eq!(parse("5.4.0-1103-aws\n"), Ok(KernelVersion::new(5, 4)));
    assert_eq!(parse("4.18.0-513.el8.x86_64"), Ok(KernelVersion::new(4, 18)));
    assert_eq!(parse("6.19-rc1"), Ok(KernelVersion::new(6, 19)));
    assert!(parse("six").is_err() && parse("").is_err() && parse("7").is_err());
    assert!(KernelVersion::running().unwrap() > KernelVersion::new(3, 0));
}

#[test]
fn conn_reuse_mode_is_left_alone_from_5_9_and_before_4_1() {
    let needs = Needs { ipvs: true, ..Needs::default() };
    let wanted =
        |major, minor| paths(&needs, KernelVersion::new(major, minor)).contains(&"net/ipv4/vs/conn_reuse_mode");
    assert!(!wanted(3, 10) && !wanted(4, 0) && !wanted(5, 9) && !wanted(6, 1));
    assert!(wanted(4, 1) && wanted(4, 19) && wanted(5, 8));
}

#[test]
fn only_what_the_node_needs_is_wanted() {
    let kernel = KernelVersion::new(6, 1);
    assert_eq!(paths(&Needs::default(), kernel), ["net/ipv4/ip_forward"]);
    let all = Needs { ipvs: true, ipv6: true, strict_arp: true, localhost_node_ports: true };
    assert_eq!(paths(&all, kernel).len(), ALL.len() - 1, "all but conn_reuse_mode");
    let strict_without_ipvs = Needs { strict_arp: true, ..Needs::default() };
    assert_eq!(paths(&strict_without_ipvs, kernel), ["net/ipv4/ip_forward"]);
}

#[test]
fn values_are_changed_once_and_put_back() {
    let (root, sysctl) = tree(&[
        ("net/ipv4/ip_forward", "0\n"),
        ("net/ipv4/conf/all/arp_ignore", "2\n"),
        ("net/ipv4/conf/all/arp_announce", "1\n"),
    ]);
    let needs = Needs { ipvs: true, strict_arp: true, ..Needs::default() };
    let wanted = settings(&needs, KernelVersion::new(6, 1));
    let (changed, failed) = sysctl.apply(&wanted);
    let before = |path: &str, value: &str| Previous { path: path.to_owned(), value: value.to_owned() };
    assert_eq!(changed, [before("net/ipv4/ip_forward", "0"), before("net/ipv4/conf/all/arp_announce", "1")]);
    assert_eq!(failed.len(), 3, "the tree has no net/ipv4/vs: {failed:?}");
    assert!(failed.iter().all(SysctlError::is_missing));
    assert_eq!(sysctl.read("net/ipv4/conf/all/arp_ignore").unwrap(), "2", "stricter than asked for is kept");
    assert_eq!(sysctl.apply(&wanted).0, [], "what is right is not written");
    assert!(sysctl.restore(&changed).is_empty());
    assert_eq!(sysctl.read("net/ipv4/ip_forward").unwrap(), "0");
    assert_eq!(sysctl.read("net/ipv4/conf/all/arp_announce").unwrap(), "1");
    std::fs::remove_dir_all(root).unwrap();
}
