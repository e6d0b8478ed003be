import mujoco
import numpy as np
import pytest

from rdt_ros.errors import InputError
from rdt_ros.sim import model as sim_model
from rdt_ros.sim.model import ARMS, build_kinematics, build_model, joint_name, thin_mesh
from rdt_ros.sim.schedule import STEP_NS


@pytest.fixture(scope="module")
def model():
    return build_model()


def test_it_has_the_project_cameras_and_step(model):
    names = {model.camera(i).name for i in range(model.ncam)}
    assert {"cam_high", "cam_left_wrist", "cam_right_wrist"} <= names
    assert model.opt.timestep == pytest.approx(STEP_NS * 1e-9)
    assert (model.vis.global_.offwidth, model.vis.global_.offheight) == (640, 480)


def test_meshes_are_thinned_and_keep_their_size(model):
    shipped = mujoco.MjModel.from_xml_path(str(sim_model.assets_dir() / "bimanual_viperx_transfer_cube.xml"))
    assert model.nmeshface < 0.4 * shipped.nmeshface
    for i in range(shipped.ngeom):
        name = shipped.geom(i).name
        thinned_m, shipped_m = model.geom_aabb[model.geom(name).id, 3:], shipped.geom_aabb[i, 3:]  # half sizes
        np.testing.assert_allclose(thinned_m, shipped_m, rtol=0.05, atol=3e-3)


def test_fingers_and_table_are_not_thinned(model):
    shipped = mujoco.MjModel.from_xml_path(str(sim_model.assets_dir() / "bimanual_viperx_transfer_cube.xml"))
    for name in ("vx300s_10_gripper_finger_left", "vx300s_10_gripper_finger_right", "tabletop"):
        assert model.mesh(name).facenum == shipped.mesh(name).facenum


def test_added_geoms_touch_nothing(model):
    for name in ("floor", "ceiling", "left_wall", "right_wall", "front_wall", "back_wall"):
        assert model.geom(name).contype == 0 and model.geom(name).conaffinity == 0


def test_arms_without_meshes_move_alike(model):
    """Postures solved on the light model hold on the full one."""
    light, random = build_kinematics(), np.random.default_rng(0)
    full_data, light_data = mujoco.MjData(model), mujoco.MjData(light)
    full_data.qpos[:16] = light_data.qpos[:16] = random.uniform(-1, 1, 16)
    mujoco.mj_kinematics(model, full_data)
    mujoco.mj_kinematics(light, light_data)
    for arm in ARMS:
        assert light.joint(joint_name(arm, "elbow")).qposadr == model.joint(joint_name(arm, "elbow")).qposadr
        body = f"vx300s_{arm}/gripper_link"
        np.testing.assert_allclose(light_data.body(body).xpos, full_data.body(body).xpos)
        np.testing.assert_allclose(light_data.body(body).xmat, full_data.body(body).xmat)


def test_thinning_merges_near_corners_and_drops_what_became_flat():
    far, near = [1.0, 0.0, 0.0], [1.0, 0.001, 0.0]
    triangles = np.array([[[0, 0, 0], far, [0, 1, 0]], [[0, 0, 0], near, [0, 1, 0]], [far, near, [0, 1, 0]]])
    vertices, faces = thin_mesh(triangles, 0.1)
    assert faces.shape == (1, 3)
    assert sorted(vertices.round(4).tolist()) == [[0, 0, 0], [0, 1, 0], [1, 0.0005, 0]]


def test_without_the_assets_the_package_to_install_is_named(monkeypatch):
    monkeypatch.setattr(sim_model.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install --no-deps gym-aloha==0\.1\.5"):
        build_model()
