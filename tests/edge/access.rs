//! Tokens and signed URLs: on every face each client gets its repositories and no other, with the
//! statuses that clients understand.

use std::path::PathBuf;

use super::command::Served;
use super::model::{self, Tensor};
use super::run::{Run, command, done, pack, python_command, text};
use sha2::{Digest, Sha256};

const TENSORS: &[Tensor<'_>] = &[("model.other.weight", &[300, 512], 9)];

/// An edge over `org/m` and `other/n`, with a reader of each, an operator, and signed URLs.
struct Guarded {
    served: Served,
    store: PathBuf,
    other: String,
    key: PathBuf,
}

impl Guarded {
    fn new(name: &str) -> Self {
        let folder = super::run::fresh_folder(&format!("{name}-secrets"));
        let line = |name: &str, token: &str, more: &str| {
            let digest: String =
                Sha256::digest(token).iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{name} sha256:{digest} {more}\n")
        };
        let (tokens, key) = (folder.join("tokens"), folder.join("url.key"));
        let content = line("reader", "reads-org", "repos=org/*")
            + &line("other", "reads-other", "repos=other/n")
            + &line("operator", "runs-it", "admin");
        std::fs::write(&tokens, content).expect("a file");
        std::fs::write(&key, "0123456789abcdef0123456789abcdef\n").expect("a file");
        let served = Served::with(name, &["--tokens", text(&tokens), "--url-key", text(&key)]);
        let store = served.folder.join("store");
        let model = model::write(&served.folder.join("n"), TENSORS);
        let other = pack(&store, &model, "other/n", &[]).text("manifest");
        Self { served, store, other, key }
    }

    /// The status of one request with a token.
    #[track_caller]
    fn status(&self, line: &str, token: &str, headers: &str) -> (u16, String) {
        let token = match token {
            "" => String::new(),
            token => format!("Authorization: Bearer {token}\r\n"),
        };
        let (head, _) = self.served.ask(line, &format!("{token}{headers}"), "");
        (head[9..12].parse().expect("a status"), head)
    }

    /// A load through the pack face.
    fn load(&self, artifact: &str, token: Option<&str>) -> Run {
        let url = format!("http://{}", self.served.address);
        let mut command = command(&["--json", "--store", &url, "load", artifact, "--digest"]);
        command.env_remove("TENPAK_TOKEN");
        if let Some(token) = token {
            command.env("TENPAK_TOKEN", token);
        }
        Run::of(command.output().expect("a process"))
    }
}

#[test]
fn every_face_keeps_to_the_tokens_repositories() {
    let guarded = Guarded::new("guarded");
    let (commit, other) = (&guarded.served.commit, &guarded.other);
    let own_manifest = done(&["inspect", "org/m", "--store", text(&guarded.store)]);
    let own = own_manifest.text("manifest");
    let of_own = format!("Tenpak-Artifact: org/m@{own}\r\n");
    let of_other = format!("Tenpak-Artifact: other/n@{other}\r\n");
    let claimed = format!("Tenpak-Artifact: org/m@{other}\r\n");
    let s3 = "Authorization: AWS4-HMAC-SHA256 Credential=reads-org/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=00\r\n";
    let file = "GET /org/m/resolve/main/config.json";
    let foreign = format!("GET /org/m/resolve/{}/config.json", &other[..40]);
    let node = format!("GET /{}", super::run::names(&guarded.store, "names/")[0]);
    #[rustfmt::skip]
    let cases: Vec<(&str, &str, &str, u16)> = vec![
        (file, "", "", 401),
        (file, "nobodys", "", 401),
        (file, "reads-org", "", 200),
        (file, "reads-other", "", 403),
        (file, "runs-it", "", 200),
        ("GET /api/models/org/m", "reads-other", "", 403),
        ("GET /api/models/other/n", "reads-other", "", 200),
        ("GET /api/models/other/none", "reads-other", "", 403),
        ("GET /api/models/other/none", "", "", 401),
        (&foreign, "reads-org", "", 404),
        ("GET /refs/org/m/@latest", "reads-org", "", 200),
        ("GET /refs/org/m/@latest", "reads-other", "", 403),
        ("GET /refs/org/m/@latest", "", "", 401),
        ("GET /refs/index", "reads-org", "", 403),
        ("GET /refs/index", "runs-it", "", 200),
        (&node, "reads-org", "", 403),
        (&node, "", "", 401),
        (&node, "runs-it", "", 200),
        ("GET /tenpak.json", "reads-org", "", 200),
        ("GET /tenpak.json", "", "", 401),
        ("GET /s3/org/m/config.json", "reads-org", "", 200),
        ("GET /s3/org/m/config.json", "reads-other", "", 403),
        ("GET /s3/org/m/config.json", "", "", 403),
        ("GET /s3/org/m/config.json", "", s3, 200),
        ("GET /s3/other/n/config.json", "", s3, 403),
        ("GET /s3/other?list-type=2", "reads-org", "", 404),
        ("GET /s3/org?list-type=2", "reads-org", "", 200),
        ("POST /purge?artifact=org/m", "reads-org", "", 403),
        ("POST /purge?artifact=org/m", "", "", 401),
        ("POST /prefetch?artifact=org/m", "reads-org", "", 403),
        ("POST /prefetch?artifact=org/m", "runs-it", "", 202),
        ("POST /prefetch?artifact=org/none", "runs-it", "", 404),
        ("POST /prefetch?artifact=..", "runs-it", "", 400),
        ("POST /prefetch", "runs-it", "", 400),
        ("GET /prefetch", "runs-it", "", 405),
        ("GET /healthz", "", "", 200),
        ("GET /metrics", "", "", 200),
    ];
    for (line, token, headers, status) in cases {
        let (got, head) = guarded.status(line, token, headers);
        assert_eq!(got, status, "{line} with {token:?} {headers}: {head}");
        assert_eq!(head.contains("www-authenticate: bearer"), got == 401, "{head}");
        if got < 300 && !line.ends_with("healthz") && !line.ends_with("metrics") {
            assert!(
                head.contains("cache-control: private, ") && !head.contains("public"),
                "{head}"
            );
        }
        if line.contains("/resolve/") || line.contains("/api/") {
            assert_eq!(head.contains("x-error-code: "), got >= 400, "{line}: {head}");
        }
    }
    for (id, headers, token, status) in [
        (&own, &of_own, "reads-org", 200),
        (&own, &of_own, "reads-other", 403),
        (other, &of_other, "reads-other", 200),
        (other, &of_other, "reads-org", 403),
        // The claim that another's artifact is one of ours.
        (other, &claimed, "reads-org", 403),
        (&own, &String::new(), "reads-org", 403),
        (&own, &String::new(), "runs-it", 200),
    ] {
        for folder in ["manifests", "layouts"] {
            let line = format!("GET /{folder}/{id}");
            let (got, head) = guarded.status(&line, token, headers);
            assert_eq!(got, status, "{line} with {token} {headers}: {head}");
        }
    }
    // Packs, tables and all: a whole load.
    let right = guarded.load("org/m", Some("reads-org"));
    assert_eq!(right.status, Some(0), "{}", right.error);
    assert_eq!(guarded.load("other/n", Some("reads-other")).status, Some(0));
    for (artifact, token) in
        [("other/n", Some("reads-org")), ("org/m", None), ("org/m", Some("nobodys"))]
    {
        let refused = guarded.load(artifact, token);
        assert_ne!(refused.status, Some(0), "{artifact} {token:?}");
        assert!(refused.json["tensors"].is_null(), "{}", refused.json);
    }
    // A pack of another repository under a claim of our own.
    let packs: Vec<String> = super::run::names(&guarded.store, "packs/");
    let statuses: Vec<u16> = packs
        .iter()
        .map(|pack| guarded.status(&format!("GET /{pack}"), "reads-org", &of_own).0)
        .collect();
    assert!(statuses.contains(&200) && statuses.contains(&403), "{statuses:?}");
    assert!(!commit.is_empty());
}

#[test]
fn the_hubs_listing_has_what_the_token_may_read() {
    let guarded = Guarded::new("listed");
    let ask = |line: &str, token: &str| {
        let headers = match token {
            "" => String::new(),
            token => format!("Authorization: Bearer {token}\r\n"),
        };
        let (head, body) = guarded.served.ask(line, &headers, "");
        let told: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        (head, told)
    };
    let listed = |token: &str| {
        let (head, told) = ask("GET /api/models", token);
        assert!(head.starts_with("http/1.1 200") && head.contains("private"), "{head}");
        let ids = told.as_array().expect("a list").iter().map(|m| m["id"].to_string());
        ids.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(listed("reads-org"), "\"org/m\"");
    assert_eq!(listed("reads-other"), "\"other/n\"");
    assert_eq!(listed("runs-it"), "\"org/m\" \"other/n\"");
    let (head, told) = ask("GET /api/models?limit=1&sort=downloads", "runs-it");
    let link = format!(
        "link: <http://{}/api/models?limit=1&sort=downloads&cursor=org%2fm>; rel=\"next\"",
        "x"
    );
    assert!(told[0]["id"] == "org/m" && head.contains(&link), "{head}");
    for (token, name) in [("reads-org", "reader"), ("runs-it", "operator")] {
        let (_, told) = ask("GET /api/whoami-v2", token);
        assert!(told["name"] == name && told["auth"]["accessToken"]["role"] == "read", "{told}");
    }
    for token in ["", "nobodys"] {
        assert!(ask("GET /api/whoami-v2", token).0.starts_with("http/1.1 401"));
    }
}

#[test]
fn a_signed_url_opens_one_path_until_its_time() {
    let guarded = Guarded::new("urls");
    let url = format!("http://{}/org/m/resolve/main/config.json", guarded.served.address);
    let sign = |expires: &str| {
        let run = done(&["sign-url", &url, "--key", text(&guarded.key), "--expires", expires]);
        let signed = run.text("url");
        let at = signed.find("/org/").expect("a path");
        signed[at..].to_owned()
    };
    let right = sign("1h");
    let status = |path: &str| guarded.status(&format!("GET {path}"), "", "").0;
    assert_eq!(status(&right), 200);
    // A cache that kept it would answer when the URL no longer holds.
    let (_, head) = guarded.status(&format!("GET {right}"), "", "");
    assert!(head.contains("cache-control: private, ") && !head.contains("public"), "{head}");
    assert_eq!(guarded.status(&format!("HEAD {right}"), "", "").0, 200);
    assert_eq!(guarded.status(&format!("GET {right}"), "", "Range: bytes=0-1\r\n").0, 206);
    assert_eq!(status(&sign("0s")), 403, "expired");
    let (path, query) = right.split_once('?').expect("a query");
    let flipped = match query.chars().last() {
        Some('0') => '1',
        _ => '0',
    };
    for forged in [
        format!("/org/m/resolve/main/model.safetensors?{query}"),
        format!("{path}?{}{flipped}", &query[..query.len() - 1]),
        format!("{path}?{}", query.replace("expires=", "expires=1")),
        format!("{path}?signature=00"),
        format!("{path}?expires=99999999999&signature="),
        format!("/purge?artifact=org/m&{query}"),
    ] {
        assert_eq!(status(&forged), 403, "{forged}");
    }
    // A token beside a forged signature does not save it.
    let forged = format!("GET {path}?signature=00");
    assert_eq!(guarded.status(&forged, "runs-it", "").0, 403);
    assert_eq!(status(path), 401);
}

#[test]
fn the_hubs_client_shows_its_token() {
    let guarded = Guarded::new("hub-token");
    let download = |token: &str| {
        let mut client = python_command();
        client.arg("-B").env("HF_ENDPOINT", format!("http://{}", guarded.served.address));
        client.env("HF_HOME", guarded.served.folder.join(format!("home-{token}")));
        client.env("HF_TOKEN", token).env("HF_HUB_DISABLE_TELEMETRY", "1");
        client.env("HF_HUB_DISABLE_UPDATE_CHECK", "1");
        let script = "from huggingface_hub import snapshot_download as s\n\
            import huggingface_hub.errors as e\n\
            try: s('org/m')\n\
            except e.GatedRepoError: print('gated')\n\
            except e.RepositoryNotFoundError: print('unknown')\n\
            else: print('done')";
        let output = client.args(["-c", script]).output().expect("python");
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        out + &String::from_utf8_lossy(&output.stderr)
    };
    assert_eq!(download("reads-org").lines().next(), Some("done"));
    assert_eq!(download("reads-other").lines().next(), Some("gated"));
    assert_eq!(download("nobodys").lines().next(), Some("unknown"));
}
