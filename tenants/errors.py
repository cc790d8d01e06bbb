"""What can go wrong here. A message names the cause and the mend."""


class TenantsError(Exception):
    """Base of this app's errors."""
