"""The contract between training and deployment: the policy bundle."""

from rlfp_ros.contract.bundle import ARM_FILE, ARM_FILES, FILES, Bundle, load_bundle, sha256
from rlfp_ros.contract.contract import (
    TWIST_COMPONENTS,
    ActionContract,
    ArmContract,
    BaseControllerContract,
    CameraContract,
    Contract,
    EncoderContract,
    Evaluation,
    FeatureStatistics,
    Goal,
    ImageContract,
    Intrinsics,
    JointQuantity,
    Latency,
    Normalisation,
    PolicyContract,
    Tolerance,
)
from rlfp_ros.contract.golden import GOLDEN_TOLERANCE, GoldenFrames
from rlfp_ros.contract.onnx import METADATA_PREFIX, description, onnx_session
from rlfp_ros.contract.write import check_replaceable, write_bundle

__all__ = [
    "ARM_FILE",
    "ARM_FILES",
    "FILES",
    "GOLDEN_TOLERANCE",
    "METADATA_PREFIX",
    "TWIST_COMPONENTS",
    "ActionContract",
    "ArmContract",
    "BaseControllerContract",
    "Bundle",
    "CameraContract",
    "Contract",
    "EncoderContract",
    "Evaluation",
    "FeatureStatistics",
    "Goal",
    "GoldenFrames",
    "ImageContract",
    "Intrinsics",
    "JointQuantity",
    "Latency",
    "Normalisation",
    "PolicyContract",
    "Tolerance",
    "check_replaceable",
    "description",
    "load_bundle",
    "onnx_session",
    "sha256",
    "write_bundle",
]
