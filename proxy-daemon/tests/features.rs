//! `shunt version --features`, asked of the kernel that runs.

#[cfg(test)]
mod tests {
    use std::process::{Command, Output};

    use serde_json::Value;

    fn shunt(line: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_shunt")).args(line.split(' ')).output().unwrap()
    }

    #[test]
    fn the_kernel_is_asked_for_each_feature() {
        let output = shunt("version --features -o json");
        if !nix::unistd::geteuid().is_root() {
            assert!(String::from_utf8_lossy(&output.stderr).contains("not running as root"));
            assert_eq!(output.status.code(), Some(1));
            return;
        }
        assert!(output.status.success(), "{output:?}");
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        let features = said["features"].as_array().unwrap();
        for feature in features {
            assert_eq!(feature["problem"], Value::Null, "{feature}");
            assert!(feature["available"] == true || feature["required"] == false, "{feature}");
        }
        let available = |name: &str| features.iter().any(|feature| feature["name"] == name && feature["available"] == true);
        assert!(available("tcx") || available("clsact"), "{said}");
    }

    #[test]
    fn the_format_is_that_of_the_features() {
        assert!(shunt("version").stdout.starts_with(b"shunt "));
        assert_eq!(shunt("version -o json").status.code(), Some(2));
    }
}
