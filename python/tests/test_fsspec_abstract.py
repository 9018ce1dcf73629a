"""fsspec's own tests for file systems: those that read. The others write to the file system that is tested."""

from pathlib import Path

import fsspec
import pytest
from fsspec.tests.abstract import AbstractFixtures, AbstractGetTests

import tenpak


class TestGet(AbstractFixtures, AbstractGetTests):
    """Files and folders of an artifact, fetched to disk in every way that fsspec knows."""

    @pytest.fixture
    def fs(self):
        return fsspec.filesystem("tenpak", skip_instance_cache=True)

    @pytest.fixture
    def fs_path(self, tmp_path):
        return f"{tmp_path}/store!org/files:latest"

    @pytest.fixture
    def packed(self, tmp_path, local_fs, local_join, fs_path):
        """What makes an artifact of a scenario that fsspec lays out on disk."""

        def pack(scenario):
            folder = tmp_path / "laid out"
            folder.mkdir()
            scenario(local_fs, local_join, str(folder))
            tenpak.Store(tmp_path / "store").pack(folder, "org/files", allow_incomplete=True)
            return f"{fs_path}/source"

        return pack

    @pytest.fixture
    def fs_bulk_operations_scenario_0(self, packed):
        return packed(self._bulk_operations_scenario_0)

    @pytest.fixture
    def fs_glob_edge_cases_files(self, packed):
        return packed(self._glob_edge_cases_files)

    @pytest.fixture
    def fs_dir_and_file_with_same_name_prefix(self, packed):
        return packed(self._dir_and_file_with_same_name_prefix)

    @pytest.fixture
    def fs_10_files_with_hashed_names(self, packed):
        return packed(self._10_files_with_hashed_names)

    def test_get_directory_recursive(self, fs, fs_join, fs_path, packed, local_fs, local_join, local_target):
        # fsspec's test makes `src/file` in the file system that it tests: here it was packed.
        def scenario(some_fs, join, path):
            some_fs.makedirs(join(path, "src"))
            some_fs.touch(join(path, "src", "file"))

        packed(scenario)
        fs.mkdir = fs.touch = lambda path: None
        super().test_get_directory_recursive(fs, fs_join, fs_path, local_fs, local_join, local_target)

    def test_the_scenarios_are_fsspecs(self, fs, fs_bulk_operations_scenario_0):
        assert len(fs.find(fs_bulk_operations_scenario_0)) == 5
        assert Path(fsspec.__file__).exists()
