"""Controllers that a residual is added to, one per file: hold, joint_pd, servo, scripted, mpc, excite.

The interface and the registry are in `base_controller`.
"""
