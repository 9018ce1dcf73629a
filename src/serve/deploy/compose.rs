//! A file of Compose: the edge, and the engine that waits for it. Pure.

use super::deployment::{
    API_KEYS, CACHE, Deployment, EDGE, EDGE_PORT, IMAGE, KEYS, PORT, START, STOP, Server,
};
use super::yaml::{Yaml, list, map};
use crate::serve::external::Word;

/// Compose puts variables in the place of `$...`.
fn literal(text: &str) -> String {
    text.replace('$', "$$")
}

fn words(all: &[String]) -> Yaml {
    list(all.iter().map(|word| literal(word)))
}

/// The key of requests, which Compose asks for if nobody has set it.
fn secret() -> String {
    format!("${{{API_KEYS}:?set the key of requests}}")
}

pub(super) fn file(deployment: &Deployment) -> String {
    let mut services: Vec<(String, Yaml)> = Vec::new();
    match &deployment.server {
        Server::Tenpak(arguments) => {
            let mut own = service(deployment, IMAGE, true).with("command", words(arguments));
            if deployment.api_key {
                own = own.with("environment", map([(API_KEYS, secret().into())]));
            }
            services.push(("server".to_owned(), served(own)));
        }
        Server::Engine { invocation, unpack, .. } => {
            let (before, condition) = match unpack {
                Some(artifact) => {
                    let unpacking = service(deployment, IMAGE, true)
                        .with("command", words(&deployment.unpacking(artifact)));
                    services.push(("files".to_owned(), unpacking.with("restart", "no")));
                    ("files", "service_completed_successfully")
                }
                None => {
                    let edge =
                        service(deployment, IMAGE, true).with("command", words(&deployment.edge()));
                    services.push(("edge".to_owned(), edge.with("restart", "unless-stopped")));
                    ("edge", "service_started")
                }
            };
            let variables = invocation.set.iter().map(|(name, own)| {
                let value = match own {
                    Word::Secret(_) => secret(),
                    // The edge is another container here.
                    Word::Plain(text) => literal(&text.replace(EDGE, &format!("edge:{EDGE_PORT}"))),
                };
                (name.clone(), Yaml::from(value))
            });
            let command = invocation.words.iter().map(|own| match own {
                Word::Secret(_) => secret(),
                Word::Plain(text) => literal(text),
            });
            let mut own = service(deployment, deployment.image(), false)
                // The image's own command is replaced.
                .with("entrypoint", list(command.clone().take(1)))
                .with("command", list(command.skip(1)))
                .with("environment", Yaml::Map(variables.collect()))
                .with("ipc", "host")
                .with("depends_on", map([(before, map([("condition", condition.into())]))]));
            if let Some(gpus) = deployment.gpus {
                let device = map([
                    ("driver", "nvidia".into()),
                    ("count", u64::from(gpus).into()),
                    ("capabilities", list(["gpu"])),
                ]);
                own = own.with(
                    "deploy",
                    map([(
                        "resources",
                        map([("reservations", map([("devices", Yaml::List(vec![device]))]))]),
                    )]),
                );
            }
            services.push(("server".to_owned(), served(own)));
        }
    }
    let mut document = map([("name", deployment.slug().into()), ("services", Yaml::Map(services))]);
    if !deployment.trust.is_empty() {
        let own = deployment.trust.iter().map(|key| {
            (key.name.replace('.', "-"), map([("content", literal(&key.content).into())]))
        });
        document = document.with("configs", Yaml::Map(own.collect()));
    }
    document = document.with("volumes", map([("cache", map([]))]));
    format!(
        "# {}: `docker compose -f FILE up` or `podman compose -f FILE up`; `tenpak` is the image of deploy/Containerfile.\n{}",
        deployment.artifact,
        document.document()
    )
}

/// A service with the cache, and with the stores and keys that tenpak reads.
fn service(deployment: &Deployment, image: &str, reads: bool) -> Yaml {
    let mut volumes = vec![format!("cache:{CACHE}")];
    let mut own = map([("image", image.into()), ("stop_grace_period", format!("{STOP}s").into())]);
    if reads {
        volumes.extend(
            deployment
                .mounts()
                .iter()
                .map(|(host, inside)| format!("{}:{inside}:ro", literal(host))),
        );
        if !deployment.trust.is_empty() {
            let configs = deployment.trust.iter().map(|key| {
                map([
                    ("source", key.name.replace('.', "-").into()),
                    ("target", format!("{KEYS}/{}", key.name).into()),
                ])
            });
            own = own.with("configs", list(configs));
        }
    }
    own.with("volumes", list(volumes))
}

/// A service that answers from outside, and is asked how it is.
fn served(own: Yaml) -> Yaml {
    // Every image of an engine has Python or curl, and that of tenpak neither; bash opens connections itself.
    let ask = format!(
        "exec 3<>/dev/tcp/127.0.0.1/{PORT} && printf 'GET /health HTTP/1.0\\r\\n\\r\\n' >&3 && grep -q ' 200 ' <&3"
    );
    own.with("restart", "unless-stopped").with("ports", list([format!("{PORT}:{PORT}")])).with(
        "healthcheck",
        map([
            ("test", list(["CMD".to_owned(), "bash".to_owned(), "-c".to_owned(), ask])),
            ("interval", "10s".into()),
            ("timeout", "5s".into()),
            ("retries", 3.into()),
            ("start_period", format!("{START}s").into()),
        ]),
    )
}
