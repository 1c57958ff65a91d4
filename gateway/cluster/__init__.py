"""A gateway that is a member of a cluster: a front of the leader, and ready to lead."""
