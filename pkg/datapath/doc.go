// SPDX-License-Identifier: Apache-2.0

// Package datapath is everything BPF in Go: it loads the programs of bpf/,
// attaches them to cgroups and network devices, and owns their maps. All of it
// is pinned or attached for good and serves on without the process; Open after
// a restart takes over what runs, and replaces programs in place.
//
//	dp, err := datapath.Open(datapath.Options{PinDir: "/sys/fs/bpf/patchbay", Log: log})
//	err = dp.AttachSockets("/sys/fs/cgroup")
//	err = dp.SetNIC(datapath.NIC{Index: 2, Name: "eth0", Role: datapath.External, …})
//	err = dp.SetServices(service.Build(input))
//	err = dp.Run(ctx)
//
// Methods may be called concurrently. Those that attach to devices work in the
// network namespace of the thread that called Open and calls them: one that
// never changes, for the agent.
//
// Sub-packages: objects (compiled programs and generated types), load (pins,
// programs), attach (links and filters), services and maps (typed owners).
// Nothing outside datapath imports cilium/ebpf.
package datapath
