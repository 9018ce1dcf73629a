//! A bucket in memory with what others than S3 have of their own: no ranges from the end, as Azure, and
//! conditional writes that compare generations and nothing else, as GCS.

use std::fmt;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

#[derive(Debug, Default)]
pub struct Peculiar(InMemory);

impl fmt::Display for Peculiar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Peculiar")
    }
}

#[async_trait]
impl ObjectStore for Peculiar {
    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        if matches!(options.range, Some(GetRange::Suffix(_))) {
            return Err(Error::NotSupported { source: "no suffix ranges".into() });
        }
        let mut result = self.0.get_opts(at, options).await?;
        result.meta.version = result.meta.e_tag.replace("the same for all".to_owned());
        Ok(result)
    }

    async fn put_opts(&self, at: &Path, data: PutPayload, mut o: PutOptions) -> Result<PutResult> {
        if let PutMode::Update(expected) = &mut o.mode {
            let source = "a generation is required for conditional updates".into();
            let generation = expected.version.take();
            expected.e_tag = Some(generation.ok_or(Error::Generic { store: "Peculiar", source })?);
        }
        self.0.put_opts(at, data, o).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(at, options).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.0.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.0.copy_opts(from, to, options).await
    }
}
