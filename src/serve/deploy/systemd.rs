//! A unit of systemd. Pure.

use super::deployment::{API_KEYS, Deployment, KEYS, STOP, Server};

/// A word as systemd takes it.
fn quoted(word: &str) -> String {
    let doubled = word.replace('%', "%%").replace('$', "$$");
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@,+%$*".contains(c);
    match !word.is_empty() && doubled.chars().all(plain) {
        true => doubled,
        false => {
            let mut out = String::from("\"");
            for c in doubled.chars() {
                match c {
                    '"' | '\\' => out.extend(['\\', c]),
                    '\n' => out.push_str("\\n"),
                    c => out.push(c),
                }
            }
            out.push('"');
            out
        }
    }
}

pub(super) fn unit(deployment: &Deployment) -> String {
    let slug = deployment.slug();
    let words = match &deployment.server {
        Server::Tenpak(words) => words.clone(),
        // This program starts the engine; a caller gives it so.
        Server::Engine { .. } => Vec::new(),
    };
    let start: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    let trust: String = deployment
        .trust
        .iter()
        .map(|key| format!("#   install -D -m 644 {0} {1}/{0}\n", key.name, KEYS))
        .collect();
    let keys = match trust.is_empty() {
        true => String::new(),
        false => format!("# Trusted keys:\n{trust}"),
    };
    let secrets = match deployment.api_key {
        true => format!(
            "# Keys of requests, separated by commas, in /etc/tenpak/{slug}.env (mode 600):\n#   {}=...\n",
            API_KEYS
        ),
        false => String::new(),
    };
    let file = if deployment.api_key { "" } else { "-" };
    format!(
        "# /etc/systemd/system/{slug}.service\n{keys}{secrets}
[Unit]
Description=TenPak: {artifact} over HTTP
After=network-online.target
Wants=network-online.target

[Service]
Type=exec
EnvironmentFile={file}/etc/tenpak/{slug}.env
ExecStart=/usr/local/bin/tenpak {start}
# SIGTERM goes to tenpak alone, which passes it on; what is left after that is killed.
KillMode=mixed
KillSignal=SIGTERM
TimeoutStopSec={STOP}
Restart=on-failure
RestartSec=5

DynamicUser=yes
CacheDirectory={slug}
StateDirectory={slug}
Environment=HOME=/var/lib/{slug}
Environment=XDG_STATE_HOME=/var/lib/{slug}
LimitNOFILE=65536
UMask=0077
NoNewPrivileges=yes
PrivateTmp=yes
ProtectControlGroups=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectSystem=strict

[Install]
WantedBy=multi-user.target
",
        artifact = deployment.artifact,
        start = start.join(" "),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_mean_themselves() {
        for (word, is) in [
            ("--listen=0.0.0.0:8000", "--listen=0.0.0.0:8000"),
            ("50%", "50%%"),
            ("$HOME", "$$HOME"),
            ("a b", "\"a b\""),
            ("say \"x\\y\"", "\"say \\\"x\\\\y\\\"\""),
            ("", "\"\""),
        ] {
            assert_eq!(quoted(word), is);
        }
    }
}
