"""The ids of the batched envs in gymnasium's registry, as `mru_rl/...`: for gymnasium.make and gymnasium.make_vec."""

from __future__ import annotations

from mru_rl.envs.registry import GYMNASIUM_NAMESPACE, PORTS


def register() -> None:
    """Register every batched env with gymnasium; once is enough, more does no harm. Envs are loaded when made."""
    from gymnasium.envs.registration import register, registry

    for env_id in PORTS:
        name = GYMNASIUM_NAMESPACE + env_id.removeprefix(GYMNASIUM_NAMESPACE)
        if name not in registry:
            register(
                id=name,
                entry_point="mru_rl.envs.to_gymnasium.adapter:GymnasiumSingleEnv",
                vector_entry_point="mru_rl.envs.to_gymnasium.adapter:make_vector",
                kwargs={"env_id": env_id},
            )
