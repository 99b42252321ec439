"""From a case's files to arrays that keep every rule, and to what is wrong with them."""
