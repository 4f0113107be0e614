"""What the machine is: facts read under one root, without an opinion on any of them."""
