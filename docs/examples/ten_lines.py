import torch
import scalecom.torch as hvd

hvd.init()
model = torch.nn.Linear(1000, 100)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
optimizer = hvd.DistributedOptimizer(optimizer, named_parameters=model.named_parameters(),
                                     compression=hvd.Compression.scalecom(rate=100))
hvd.broadcast_parameters(model.state_dict(), root_rank=0)
for step in range(10):
    optimizer.zero_grad()
    loss = model(torch.randn(32, 1000)).square().mean()
    loss.backward()
    optimizer.step()
print(f"rank {hvd.rank()} of {hvd.size()}: loss {loss.item():.4f}")
