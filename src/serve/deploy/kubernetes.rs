//! Objects of Kubernetes: a deployment of one pod with the edge beside the engine, and its service. Pure.

use super::deployment::{
    API_KEYS, CACHE, Deployment, EDGE_PORT, IMAGE, KEYS, PORT, START, STOP, Server, disk,
};
use super::yaml::{Yaml, list, map};
use crate::serve::external::Word;

/// The name of the only key of a secret.
const SECRET_KEY: &str = "api-keys";

/// Kubernetes puts variables in the place of `$(...)`.
fn literal(text: &str) -> String {
    text.replace("$(", "$$(")
}

fn words(all: &[String]) -> Yaml {
    list(all.iter().map(|word| literal(word)))
}

pub(super) fn objects(deployment: &Deployment) -> String {
    let slug = deployment.slug();
    let labels = || map([("app.kubernetes.io/name", slug.as_str().into())]);
    let metadata = || map([("name", slug.as_str().into()), ("labels", labels())]);
    let mut all = Vec::new();
    if !deployment.trust.is_empty() {
        let data =
            deployment.trust.iter().map(|key| (key.name.clone(), Yaml::from(key.content.as_str())));
        let name = map([("name", format!("{slug}-trust").into())]);
        all.push(map([
            ("apiVersion", "v1".into()),
            ("kind", "ConfigMap".into()),
            ("metadata", name),
            ("data", Yaml::Map(data.collect())),
        ]));
    }
    let template = map([("metadata", map([("labels", labels())])), ("spec", pod(deployment))]);
    all.push(map([
        ("apiVersion", "apps/v1".into()),
        ("kind", "Deployment".into()),
        ("metadata", metadata()),
        (
            "spec",
            map([
                ("replicas", 1.into()),
                // GPUs are not there twice.
                ("strategy", map([("type", "Recreate".into())])),
                ("progressDeadlineSeconds", START.into()),
                ("selector", map([("matchLabels", labels())])),
                ("template", template),
            ]),
        ),
    ]));
    let port = map([("name", "http".into()), ("port", 80.into()), ("targetPort", "http".into())]);
    all.push(map([
        ("apiVersion", "v1".into()),
        ("kind", "Service".into()),
        ("metadata", metadata()),
        ("spec", map([("selector", labels()), ("ports", Yaml::List(vec![port]))])),
    ]));
    let mut out = format!(
        "# {}: `kubectl apply -f FILE`; `{IMAGE}` is the image of deploy/Containerfile.\n",
        deployment.artifact
    );
    if deployment.api_key {
        out += &format!(
            "# First: kubectl create secret generic {slug} --from-literal={SECRET_KEY}=KEY\n"
        );
    }
    let documents: Vec<String> = all.iter().map(Yaml::document).collect();
    out + &documents.join("---\n")
}

fn pod(deployment: &Deployment) -> Yaml {
    let mut before = Vec::new();
    let mut main = match &deployment.server {
        Server::Tenpak(arguments) => {
            let own = container(deployment, "server", IMAGE, true).with("args", words(arguments));
            match deployment.api_key {
                true => own.with("env", list([secret(deployment, API_KEYS)])),
                false => own,
            }
        }
        Server::Engine { invocation, unpack, .. } => {
            before.push(match unpack {
                Some(artifact) => container(deployment, "files", IMAGE, true)
                    .with("args", words(&deployment.unpacking(artifact))),
                None => edge(deployment),
            });
            let mut env = Vec::new();
            let mut shown = Vec::new();
            for own in &invocation.words {
                shown.push(match own {
                    Word::Plain(text) => literal(text),
                    Word::Secret(_) => format!("$({API_KEYS})"),
                });
            }
            if invocation.words.iter().any(|own| matches!(own, Word::Secret(_))) {
                env.push(secret(deployment, API_KEYS));
            }
            for (name, own) in &invocation.set {
                env.push(match own {
                    Word::Plain(text) => {
                        map([("name", name.as_str().into()), ("value", literal(text).into())])
                    }
                    Word::Secret(_) => secret(deployment, name),
                });
            }
            container(deployment, "server", deployment.image(), false)
                .with("command", list(shown))
                .with("env", Yaml::List(env))
        }
    };
    let health = || map([("path", "/health".into()), ("port", "http".into())]);
    let probe = |every: u64, failures: u64| {
        map([
            ("httpGet", health()),
            ("periodSeconds", every.into()),
            ("timeoutSeconds", 5.into()),
            ("failureThreshold", failures.into()),
        ])
    };
    let port = map([("name", "http".into()), ("containerPort", u64::from(PORT).into())]);
    main = main
        .with("ports", Yaml::List(vec![port]))
        .with("startupProbe", probe(5, START / 5))
        .with("readinessProbe", probe(5, 2))
        .with("livenessProbe", probe(10, 6))
        .with("resources", resources(deployment));
    let mut spec = map([
        ("terminationGracePeriodSeconds", STOP.into()),
        ("securityContext", map([("fsGroup", 1000.into())])),
    ]);
    if !before.is_empty() {
        spec = spec.with("initContainers", Yaml::List(before));
    }
    spec.with("containers", Yaml::List(vec![main])).with("volumes", volumes(deployment))
}

/// The edge: a container that starts before the engine, and ends after it.
fn edge(deployment: &Deployment) -> Yaml {
    let get = map([("path", "/healthz".into()), ("port", u64::from(EDGE_PORT).into())]);
    let probe =
        map([("httpGet", get), ("periodSeconds", 1.into()), ("failureThreshold", 60.into())]);
    let memory = map([("cpu", "1".into()), ("memory", "2Gi".into())]);
    container(deployment, "edge", IMAGE, true)
        .with("restartPolicy", "Always")
        .with("args", words(&deployment.edge()))
        .with("startupProbe", probe)
        .with("resources", map([("requests", memory)]))
}

fn container(deployment: &Deployment, name: &str, image: &str, reads: bool) -> Yaml {
    let mount = |name: &str, path: &str| map([("name", name.into()), ("mountPath", path.into())]);
    let mut mounts = vec![mount("cache", CACHE)];
    if reads {
        for (index, (_, inside)) in deployment.mounts().iter().enumerate() {
            mounts.push(mount(&format!("store-{index}"), inside).with("readOnly", true));
        }
        if !deployment.trust.is_empty() {
            mounts.push(mount("trust", KEYS).with("readOnly", true));
        }
    } else {
        mounts.push(mount("shm", "/dev/shm"));
    }
    map([("name", name.into()), ("image", image.into()), ("volumeMounts", Yaml::List(mounts))])
}

fn resources(deployment: &Deployment) -> Yaml {
    let gib = (deployment.weights >> 30) + 1;
    // Weights on a GPU pass through memory; those of the embedded engine stay there.
    let memory = if deployment.gpus.is_some() { 8 + gib / 2 } else { 4 + gib + gib / 4 };
    let mut limits = map([]);
    if let Some(gpus) = deployment.gpus {
        limits = limits.with("nvidia.com/gpu", u64::from(gpus));
    }
    let requests = map([("cpu", "2".into()), ("memory", format!("{memory}Gi").into())]);
    map([("requests", requests), ("limits", limits)])
}

fn secret(deployment: &Deployment, variable: &str) -> Yaml {
    let key = map([("name", deployment.slug().into()), ("key", SECRET_KEY.into())]);
    map([("name", variable.into()), ("valueFrom", map([("secretKeyRef", key)]))])
}

fn volumes(deployment: &Deployment) -> Yaml {
    let size = format!("{}Gi", disk(deployment.weights).saturating_mul(2));
    let mut all =
        vec![map([("name", "cache".into()), ("emptyDir", map([("sizeLimit", size.into())]))])];
    for (index, (host, _)) in deployment.mounts().iter().enumerate() {
        let path = map([("path", (*host).into()), ("type", "Directory".into())]);
        all.push(map([("name", format!("store-{index}").into()), ("hostPath", path)]));
    }
    if !deployment.trust.is_empty() {
        let config = map([("name", format!("{}-trust", deployment.slug()).into())]);
        all.push(map([("name", "trust".into()), ("configMap", config)]));
    }
    if matches!(deployment.server, Server::Engine { .. }) {
        // Parts of a model that is spread over GPUs talk through it.
        all.push(map([("name", "shm".into()), ("emptyDir", map([("medium", "Memory".into())]))]));
    }
    Yaml::List(all)
}
