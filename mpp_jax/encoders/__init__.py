"""One descriptor set to one vector: Fisher vectors, VLAD, and the other set encoders."""
