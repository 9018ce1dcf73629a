"""What users of the Hugging Face Hub do, against HF_ENDPOINT: downloads a repository with the real
client and compares every byte; asks for what is not there.

usage: hub_client.py REPO SOURCE_FOLDER CACHE COMMIT
"""

import pathlib
import sys

import huggingface_hub
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.utils import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

repo, source, cache, commit = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3], sys.argv[4]
api = HfApi()


def expect(error, call):
    try:
        call()
    except error:
        return
    raise SystemExit(f"no {error.__name__}")


files = {str(f.relative_to(source)): f for f in source.rglob("*") if f.is_file()}
info = api.model_info(repo, files_metadata=True)
assert info.sha == commit, info.sha
assert {s.rfilename: s.size for s in info.siblings} == {name: f.stat().st_size for name, f in files.items()}
for revision in (None, "main", commit):
    folder = pathlib.Path(snapshot_download(repo, revision=revision, cache_dir=cache))
    assert folder.name == commit, folder
    assert {str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()} == set(files)
    for name, f in files.items():
        assert (folder / name).read_bytes() == f.read_bytes(), name
tree = list(api.list_repo_tree(repo, recursive=True))
assert {e.path for e in tree if hasattr(e, "blob_id")} == set(files)
nested = next(name for name in files if "/" in name)
assert nested.split("/")[0] in {e.path for e in api.list_repo_tree(repo)}
assert [e.path for e in api.get_paths_info(repo, [nested, "nowhere"])] == [nested]
assert [b.target_commit for b in api.list_repo_refs(repo).branches] == [commit]
expect(EntryNotFoundError, lambda: hf_hub_download(repo, "nowhere.json", cache_dir=cache))
expect(RevisionNotFoundError, lambda: hf_hub_download(repo, nested, revision="nowhere", cache_dir=cache))
expect(RepositoryNotFoundError, lambda: hf_hub_download("org/nowhere", nested, cache_dir=cache))
# Listing, page by page; who asks; and what writes.
assert [m.id for m in api.list_models(limit=10)] == [repo]
assert [m.id for m in api.list_models(author=repo.split("/")[0], search="M")] == [repo]
assert [m.id for m in api.list_models(search="nowhere")] == []
commits = api.list_repo_commits(repo)
assert [c.commit_id for c in commits] == [commit] and commits[0].created_at.year >= 2026, commits
assert [c.commit_id for c in api.list_repo_commits(repo, revision=commit)] == [commit]
expect(RevisionNotFoundError, lambda: api.list_repo_commits(repo, revision="nowhere"))
assert list(api.get_repo_discussions(repo)) == []
expect(RepositoryNotFoundError, lambda: list(api.get_repo_discussions("org/nowhere")))
assert list(api.list_datasets()) == [] and list(api.list_spaces()) == []
api.auth_check(repo)
expect(RepositoryNotFoundError, lambda: api.auth_check("org/nowhere"))
for write in (
    lambda: api.create_repo("org/new", token="x"),
    lambda: api.upload_file(path_or_fileobj=b"x", path_in_repo="x", repo_id=repo, token="x"),
    lambda: api.delete_repo(repo, token="x"),
    lambda: api.create_tag(repo, tag="x", token="x"),
):
    try:
        write()
    except HfHubHTTPError as error:
        assert "tenpak pack" in str(error), error
    else:
        raise SystemExit("an edge was written to")
print(huggingface_hub.__version__, len(files))
