"""Volumes for the chart's claims: static local PersistentVolumes in the cluster's own folder, for there is no storage class that makes any."""
CLASS, NODE = "meshroot-test", "node1"


def make(cluster, n):
    """n volumes of a class that waits for the pod; the chart's settings that claim them."""
    cluster.apply({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": CLASS}, "provisioner": "kubernetes.io/no-provisioner",
                   "volumeBindingMode": "WaitForFirstConsumer"}, *(volume(cluster, i) for i in range(n)))
    return {x: v for part in ("ca", "vault") for x, v in ((f"{part}.persistence.enabled", "true"), (f"{part}.persistence.storageClass", CLASS))}


def volume(cluster, i):
    path = cluster.dir / "volumes" / str(i)
    path.mkdir(parents=True)
    here = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE]}]}
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": f"{CLASS}-{i}"}, "spec": {
        "capacity": {"storage": "2Gi"}, "accessModes": ["ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Retain", "storageClassName": CLASS,
        "local": {"path": str(path)}, "nodeAffinity": {"required": {"nodeSelectorTerms": [here]}}}}


def remove(cluster):
    cluster.kubectl("delete", "pv", "--ignore-not-found", *(p["metadata"]["name"] for p in cluster.get("pv")["items"]
                                                            if p["spec"].get("storageClassName") == CLASS), check=False)
    cluster.kubectl("delete", "storageclass", CLASS, "--ignore-not-found")
