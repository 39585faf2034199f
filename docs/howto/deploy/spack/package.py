# For Spack 1.0 or newer, as packages/scalecom/package.py of a repository that `spack repo create` has made.
from spack.package import *
from spack_repo.builtin.build_systems.cmake import CMakePackage


class Scalecom(CMakePackage):
    """Collective communication for distributed training with ScaleCom compression."""

    homepage = "https://arxiv.org/abs/2104.11125"

    license("Apache-2.0")

    # The source is the working tree; there: spack dev-build scalecom@0.1.0
    version("0.1.0")

    variant("mpi", default=True, description="Jobs that mpirun or srun launches")
    variant("cuda", default=False, description="Tensors on NVIDIA GPUs")

    depends_on("c", type="build")
    depends_on("cxx", type="build")
    depends_on("cmake@3.25:", type="build")
    depends_on("pkgconfig", type="build")
    depends_on("cli11", type="build")
    depends_on("eigen", type="build")
    depends_on("nlohmann-json", type="build")
    depends_on("fmt")
    depends_on("spdlog")
    depends_on("highway")
    depends_on("openssl@3:")
    depends_on("mpi", when="+mpi")
    depends_on("cuda@12:", when="+cuda")

    def cmake_args(self):
        return [
            self.define("SCALECOM_BUILD_TESTS", False),
            self.define("SCALECOM_WITH_MPI", "ON" if self.spec.satisfies("+mpi") else "OFF"),
            self.define("SCALECOM_WITH_CUDA", "ON" if self.spec.satisfies("+cuda") else "OFF"),
        ]
