"""boto3 against an edge: what it lists and reads is the model's folder.

usage: s3_client.py ENDPOINT MODEL COMMIT
"""

import hashlib
import pathlib
import sys

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

endpoint, model, commit = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3]
client = boto3.client(
    "s3", endpoint_url=endpoint, region_name="us-east-1",
    aws_access_key_id="any", aws_secret_access_key="any",
    config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}),
)
files = {str(p.relative_to(model)): p for p in model.rglob("*") if p.is_file()}

assert [b["Name"] for b in client.list_buckets()["Buckets"]] == ["org"]
client.head_bucket(Bucket="org")


def listed(**asked):
    """Everything of a listing, page by page."""
    keys, prefixes = [], []
    for page in client.get_paginator("list_objects_v2").paginate(Bucket="org", **asked):
        assert page["KeyCount"] == len(page.get("Contents", [])) + len(page.get("CommonPrefixes", []))
        keys += page.get("Contents", [])
        prefixes += [p["Prefix"] for p in page.get("CommonPrefixes", [])]
    return keys, prefixes


for size in (1000, 2, 1):
    keys, prefixes = listed(Prefix="m/", PaginationConfig={"PageSize": size})
    assert {k["Key"]: k["Size"] for k in keys} == {f"m/{n}": p.stat().st_size for n, p in files.items()}
    assert [k["Key"] for k in keys] == sorted(k["Key"] for k in keys) and not prefixes
    keys, prefixes = listed(Prefix="m/", Delimiter="/", PaginationConfig={"PageSize": size})
    assert prefixes == ["m/1_Pooling/"], prefixes
    assert {k["Key"] for k in keys} == {f"m/{n}" for n in files if "/" not in n}
assert listed(Delimiter="/") == ([], ["m/"])
# The first version of listings, which some tools ask for unless told.
for size in (1000, 2, 1):
    pages = client.get_paginator("list_objects").paginate(Bucket="org", Prefix="m/", PaginationConfig={"PageSize": size})
    assert [k["Key"] for page in pages for k in page["Contents"]] == sorted(f"m/{n}" for n in files)
    pages = client.get_paginator("list_objects").paginate(
        Bucket="org", Prefix="m/", Delimiter="/", PaginationConfig={"PageSize": size})
    pages = list(pages)
    assert [p["Prefix"] for page in pages for p in page.get("CommonPrefixes", [])] == ["m/1_Pooling/"]
    assert len([k for page in pages for k in page.get("Contents", [])]) == len(files) - 1
assert client.get_bucket_location(Bucket="org")["LocationConstraint"] is None
assert len(listed(Prefix="m:v1/")[0]) == len(files)
assert listed(Prefix="nothing/") == ([], [])

for root in ("m", "m:v1", f"m@{commit}"):
    for name, path in files.items():
        got = client.get_object(Bucket="org", Key=f"{root}/{name}")
        data = got["Body"].read()
        assert data == path.read_bytes(), name
        head = client.head_object(Bucket="org", Key=f"{root}/{name}")
        assert head["ContentLength"] == len(data) and head["ETag"] == got["ETag"]
        assert "LastModified" in head and head["AcceptRanges"] == "bytes"

weights = files["model.safetensors"].read_bytes()
part = client.get_object(Bucket="org", Key="m/model.safetensors", Range="bytes=1000000-1999999")
assert part["Body"].read() == weights[1_000_000:2_000_000]
assert part["ContentRange"] == f"bytes 1000000-1999999/{len(weights)}"
etag = part["ETag"]
assert client.get_object(Bucket="org", Key="m/model.safetensors", IfMatch=etag)["ETag"] == etag

target = model.parent / "downloaded"
client.download_file("org", "m/model.safetensors", str(target))
assert hashlib.sha256(target.read_bytes()).digest() == hashlib.sha256(weights).digest()


def refused(status, code, call, **asked):
    try:
        call(Bucket=asked.pop("Bucket", "org"), **asked)
    except ClientError as error:
        got = error.response["ResponseMetadata"]["HTTPStatusCode"], error.response["Error"]["Code"]
        assert got == (status, code), (got, asked)
    else:
        raise AssertionError(f"not refused: {asked}")


refused(404, "NoSuchKey", client.get_object, Key="m/nothing")
refused(404, "NoSuchKey", client.get_object, Key="none/config.json")
refused(404, "NoSuchKey", client.get_object, Key="m/../../secret")
refused(404, "404", client.head_object, Key="m/nothing")
refused(404, "NoSuchBucket", client.list_objects_v2, Bucket="other")
refused(404, "404", client.head_bucket, Bucket="other")
refused(501, "NotImplemented", client.get_bucket_acl)
refused(501, "NotImplemented", client.list_multipart_uploads)
refused(501, "NotImplemented", client.get_object_tagging, Key="m/config.json")
refused(416, "InvalidRange", client.get_object, Key="m/model.safetensors", Range=f"bytes={len(weights)}-")
refused(412, "PreconditionFailed", client.get_object, Key="m/model.safetensors", IfMatch='"x"')
refused(304, "304", client.get_object, Key="m/model.safetensors", IfNoneMatch=etag)
refused(405, "405", client.put_object, Key="m/new", Body=b"x")
refused(405, "405", client.delete_object, Key="m/model.safetensors")
