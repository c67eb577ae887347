from tests.jobs.conftest import environment, ray_folder  # noqa: F401 -- fixtures.
