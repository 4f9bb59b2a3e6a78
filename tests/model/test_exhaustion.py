"""Exhausted memory is recognised, also where another error wraps it; no other error is taken for it."""

from __future__ import annotations

import pytest
import torch

from pipeline.model.exhaustion import memory_exhausted


def raised_from(cause: Exception) -> Exception:
    try:
        raise RuntimeError("compilation failed") from cause
    except RuntimeError as err:
        return err


def raised_while_handling(first: Exception) -> Exception:
    try:
        try:
            raise first
        except RuntimeError:
            raise ValueError("while handling")  # noqa: B904 - the implicit context is what is tested
    except ValueError as err:
        return err


def with_inner(inner: Exception) -> Exception:
    """Wraps an error like torch._dynamo.exc.BackendCompilerFailed does."""
    error = RuntimeError("backend='inductor' raised")
    error.inner_exception = inner  # type: ignore[attr-defined]
    return error


OUT = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.mark.parametrize(
    "error",
    [
        OUT,
        raised_from(OUT),
        raised_from(raised_from(OUT)),
        raised_while_handling(OUT),
        with_inner(OUT),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
)
def test_exhausted_memory_is_recognised(error: Exception) -> None:
    assert memory_exhausted(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"),
        raised_from(ValueError("no such shape")),
    ],
)
def test_other_faults_are_not_taken_for_it(error: Exception) -> None:
    assert not memory_exhausted(error)


def test_a_chain_that_bites_its_tail_ends() -> None:
    error = RuntimeError("a")
    error.__context__ = ValueError("b")
    error.__context__.__context__ = error
    assert not memory_exhausted(error)
