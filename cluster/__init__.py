"""Murk on a cluster: job submission, manifests and scripts; imports none of the other rooms."""
